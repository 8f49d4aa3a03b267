"""transformers folders: CLIPModel, its text and image halves, SiglipModel and its text half."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn

from clipsec.errors import ModelError, UnsupportedModelError
from clipsec.models._build import build, frozen
from clipsec.models._digest import combine_digests, layer_facts, tensor_digests
from clipsec.models._files import read_json, shown_path
from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._tokenizers import (
    CLIP_VOCABULARY,
    ClipTokenizer,
    refuse_code,
    tokenizer_files,
    try_tokenizer,
)
from clipsec.models._transformers_config import processor_spec, reduced, refuse_foreign
from clipsec.models._types import ClipModel, ImageSpec, TextPart, Tokenizer, VisualPart
from clipsec.models._weights import Weights, read_sharded, read_weights
from clipsec.protocols import API_VERSION
from clipsec_registry import printable

CONFIG_NAME = "config.json"
WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_PREFIX = "transformers:"
_MODEL_TYPES = {
    "clip": "CLIPModel",
    "clip_text_model": "CLIPTextModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipModel",
    "siglip_text_model": "SiglipTextModel",
}
_CONFIG_CLASSES = {
    "CLIPModel": "CLIPConfig",
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "SiglipModel": "SiglipConfig",
    "SiglipTextModel": "SiglipTextConfig",
}
_KINDS = {
    "CLIPModel": "clip",
    "CLIPTextModel": "text tower",
    "CLIPTextModelWithProjection": "text tower",
    "CLIPVisionModelWithProjection": "image tower",
    "SiglipModel": "clip",
    "SiglipTextModel": "text tower",
}


class TransformersLoader:
    """Loads folders with `config.json` and weights of a class in the table above, and
    `transformers:FOLDER`."""

    summary: ClassVar[str] = (
        "transformers folders: CLIPModel, its text and image halves, SiglipModel and its text half"
    )
    api_version: ClassVar[str] = API_VERSION
    conformance: ClassVar[Mapping[str, str]] = {"layout": "transformers"}

    def matches(self, spec: str) -> bool:
        """Whether the spec has the prefix, or names a folder with a `config.json` of CLIP or SigLIP.

        Raises `ModelError` when there is a `config.json` that cannot be read.
        """
        if spec.startswith(_PREFIX):
            return True
        path = Path(spec) / CONFIG_NAME
        return os.path.isfile(path) and _class_name(read_json(path)) is not None

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        """A suspect: a dual encoder, a text tower or an image tower. Raises `ModelError` with a remedy."""
        clip = load_transformers(spec, request)
        return Suspect(
            name=spec,
            kind=_KINDS[clip.architecture.rpartition(" ")[2]],
            base=clip,
            class_names=request.class_names or (),
            base_name=spec,
            files=dict(clip.files),
            device=request.device,
        )


def load_transformers(spec: str, request: LoadRequest) -> ClipModel:
    """The model in a folder; see `TransformersLoader`."""
    folder = Path(spec.removeprefix(_PREFIX))
    if not os.path.isdir(folder):
        raise ModelError(f"there is no folder {shown_path(folder)}", remedy="Check the path.")
    refuse_code(folder)
    where = shown_path(folder / CONFIG_NAME)
    config = read_json(folder / CONFIG_NAME)
    refuse_foreign(config, where)
    name = _class_name(config)
    if name is None:
        told = config.get("architectures") or config.get("model_type")
        raise UnsupportedModelError(
            f"{where} describes {printable(told, 80)}, not a CLIP or SigLIP",
            remedy=f"Known classes: {', '.join(_CONFIG_CLASSES)}.",
        )
    described = reduced(config, where)
    weights = _weights(folder, request)
    model = build(
        _maker(name, described),
        weights,
        what=f"transformers {name}",
        max_bytes=request.max_bytes,
        adapt=_adapt,
    )
    files = weights.files | tokenizer_files(folder)
    processor = folder / "preprocessor_config.json"
    preprocess = read_json(processor) if os.path.lexists(processor) else {}
    return clip_from_transformers(model, name=spec, preprocess=preprocess, folder=folder, files=files)


def _class_name(config: Mapping[str, Any]) -> str | None:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and len(architectures) == 1 and architectures[0] in _CONFIG_CLASSES:
        return str(architectures[0])
    if architectures:
        return None
    model_type = config.get("model_type")
    return _MODEL_TYPES.get(model_type) if isinstance(model_type, str) else None


def _maker(name: str, described: dict[str, Any]) -> Callable[[], nn.Module]:
    import transformers

    model_class, config_class = getattr(transformers, name), getattr(transformers, _CONFIG_CLASSES[name])
    return lambda: model_class(config_class(**described))


def _weights(folder: Path, request: LoadRequest) -> Weights:
    for name in WEIGHT_NAMES:
        path = folder / name
        if os.path.lexists(path):
            read = read_sharded if name.endswith(".index.json") else read_weights
            return read(path, max_bytes=request.max_bytes)
    raise ModelError(
        f"{shown_path(folder)} holds {CONFIG_NAME} but none of {', '.join(WEIGHT_NAMES)}",
        remedy="Ask the vendor for the complete folder.",
    )


def _adapt(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Spellings of other transformers versions: saved position numbers, and the halves' own prefix."""
    expected = model.state_dict()
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.endswith("embeddings.position_ids") and name not in expected)
    }
    prefix = "text_model."
    ours = any(name.startswith(prefix) for name in expected)
    if tensors and not ours and all(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if ours and not any(name.startswith(prefix) for name in tensors) and "final_layer_norm.weight" in tensors:
        return {prefix + name: tensor for name, tensor in tensors.items()}
    return tensors


def clip_from_transformers(
    model: nn.Module,
    *,
    name: str,
    spec: ImageSpec | None = None,
    preprocess: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    folder: Path | None = None,
    files: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> ClipModel:
    """A `ClipModel` around a transformers CLIP or SigLIP module in memory.

    `spec` is the evaluation transform, or `preprocess` a `preprocessor_config` that describes it. The
    tokenizer is the given one, else the one in `folder`, else for CLIP's vocabulary of 49,408 tokens CLIP's
    own; SigLIP has none of its own, and without one its texts are left out. The model is copied unless it
    is in fp32, on the CPU, frozen and in eval mode already.

    Raises `UnsupportedModelError` for any other class, and for a text tower whose tokenizer is missing.
    """
    kind = type(model).__name__
    if kind not in _CONFIG_CLASSES:
        raise UnsupportedModelError(
            f"a {kind} is not known here", remedy=f"Known classes: {', '.join(_CONFIG_CLASSES)}."
        )
    model = frozen(model)
    whole: Any = model
    siglip = kind.startswith("Siglip")
    config = whole.config
    has_text, has_visual = kind != "CLIPVisionModelWithProjection", "TextModel" not in kind
    text_config = getattr(config, "text_config", config)
    vision_config = getattr(config, "vision_config", config)
    activation = str((vision_config if has_visual else text_config).hidden_act)
    digests = tensor_digests(model.state_dict())
    facts = layer_facts(model)
    common: dict[str, Any] = {"library": "transformers", "class": kind, "activation": activation}
    image_facts: dict[str, Any] = {}
    visual = text = None
    if has_visual:
        if spec is None:
            spec, more = processor_spec(preprocess or {}, int(vision_config.image_size), siglip=siglip)
            notes += more
        image_facts = attrs.asdict(spec)
        seen = {path: digest for path, digest in digests.items() if path.startswith(("vision", "visual"))}
        visual = VisualPart(
            module=model,
            spec=spec,
            embed_dim=int(vision_config.hidden_size if siglip else whole.visual_projection.out_features),
            library="transformers",
            digest=combine_digests(seen, layers=_only(facts, "vision"), image=image_facts, **common),
        )
    text_facts: dict[str, Any] = {}
    if has_text:
        tokenizer, why = _choose_tokenizer(tokenizer, folder, text_config, siglip=siglip)
        text_facts = {
            "activation": str(text_config.hidden_act),
            "eos": text_config.eos_token_id,
            "tokenizer": getattr(tokenizer, "fingerprint", "given"),
        }
        if tokenizer is None and visual is None:
            raise UnsupportedModelError(
                f"texts cannot be used: {why}",
                remedy="Put the tokenizer files (tokenizer.json) into the folder.",
            )
        if tokenizer is None:
            notes += (f"Texts cannot be used: {why}.",)
        else:
            read = {
                path: digest
                for path, digest in digests.items()
                if not path.startswith(("vision", "visual", "logit_"))
            }
            text = TextPart(
                module=model,
                tokenizer=tokenizer,
                context_length=int(text_config.max_position_embeddings),
                width=int(text_config.hidden_size),
                embed_dim=_text_dim(whole, text_config, siglip=siglip),
                library="transformers",
                digest=combine_digests(read, layers=_only(facts, "text", kind), text=text_facts, **common),
            )
    logit_scale, logit_bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return ClipModel(
        name=name,
        architecture=f"transformers {kind}",
        activation=activation,
        digest=combine_digests(digests, layers=facts, image=image_facts, text=text_facts, **common),
        visual=visual,
        text=text,
        logit_scale=100.0 if logit_scale is None else math.exp(float(logit_scale)),
        logit_bias=0.0 if logit_bias is None else float(logit_bias),
        files=dict(files or {}),
        notes=notes,
    )


def _only(facts: Mapping[str, Any], half: str, kind: str = "") -> dict[str, Any]:
    """The facts of one half; a model that is one half has them all."""
    if kind in ("CLIPTextModel", "SiglipTextModel"):
        return dict(facts)
    return {path: fact for path, fact in facts.items() if path.startswith(half)}


def _text_dim(model: Any, config: Any, *, siglip: bool) -> int:
    if siglip:
        return int(getattr(model, "text_model", model).head.out_features)
    projection = getattr(model, "text_projection", None)
    return int(config.hidden_size if projection is None else projection.out_features)


def _choose_tokenizer(
    given: Tokenizer | None, folder: Path | None, config: Any, *, siglip: bool
) -> tuple[Tokenizer | None, str]:
    if given is not None:
        return given, ""
    length, vocabulary = int(config.max_position_embeddings), int(config.vocab_size)
    if folder is not None and tokenizer_files(folder):
        return try_tokenizer(folder, length, vocabulary)
    if siglip:
        return None, "SigLIP's tokenizer is not in the delivery"
    if vocabulary < CLIP_VOCABULARY:
        return None, f"the text tower knows {vocabulary} tokens, CLIP's tokenizer {CLIP_VOCABULARY}"
    return ClipTokenizer(length), ""
