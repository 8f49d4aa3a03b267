"""open_clip models: by name with a file or a published tag, and folders as `push_to_hf_hub` writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn

from clipsec.errors import ModelError, UnsupportedModelError, UsageError
from clipsec.models._build import build
from clipsec.models._files import read_json, shown_names, shown_path
from clipsec.models._open_clip_config import check_model_config, image_spec
from clipsec.models._open_clip_model import clip_from_open_clip, image_size
from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._tokenizers import (
    CLIP_VOCABULARY,
    ClipTokenizer,
    refuse_code,
    tokenizer_files,
    try_tokenizer,
)
from clipsec.models._types import ClipModel, Tokenizer
from clipsec.models._weights import Weights, read_weights
from clipsec.protocols import API_VERSION
from clipsec_registry import printable

CONFIG_NAME = "open_clip_config.json"
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_PREFIX = "open_clip:"
_LOCAL = "local-dir:"
_OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep beside the weights; open_clip drops them too."""


class OpenClipLoader:
    """Loads `open_clip:NAME@FILE`, `open_clip:NAME@TAG`, `open_clip:FOLDER`, `local-dir:FOLDER` and such
    folders."""

    summary: ClassVar[str] = "open_clip models: a name with a file or a published tag, or a folder"
    api_version: ClassVar[str] = API_VERSION
    conformance: ClassVar[Mapping[str, str]] = {"layout": "open_clip"}

    def matches(self, spec: str) -> bool:
        """Whether the spec has the prefix, or names a folder with `open_clip_config.json`."""
        return spec.startswith((_PREFIX, _LOCAL)) or os.path.isfile(os.path.join(spec, CONFIG_NAME))

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        """A suspect with both towers. Raises `ModelError` with a remedy; `UsageError` for a spec without a
        file."""
        clip = load_open_clip(spec, request)
        return Suspect(
            name=spec,
            kind="clip",
            base=clip,
            class_names=request.class_names or (),
            base_name=spec,
            files=dict(clip.files),
            device=request.device,
        )


@attrs.frozen
class _Source:
    """What is to be built, and the weights for it."""

    name: str
    config: dict[str, Any]
    preprocess: Mapping[str, Any]
    weights: Weights
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def load_open_clip(spec: str, request: LoadRequest) -> ClipModel:
    """The model that a spec names; see `OpenClipLoader`."""
    bare = spec.removeprefix(_PREFIX).removeprefix(_LOCAL)
    name, at, place = bare.rpartition("@")
    if at and not os.path.exists(bare):
        source = _named(name, place, request)
    elif os.path.isdir(bare):
        source = _folder(Path(bare), request)
    else:
        raise _spec_error(spec, bare)
    return _load(source, spec, request)


def _spec_error(spec: str, bare: str) -> Exception:
    if "@" not in bare and spec.startswith(_PREFIX) and "/" not in bare:
        return UsageError(
            f"{printable(spec, 120)} names no weights",
            remedy=f"Say open_clip:{printable(bare, 60)}@FILE or open_clip:{printable(bare, 60)}@TAG.",
        )
    return ModelError(f"there is no folder {shown_path(bare)}", remedy="Check the path.")


def _folder(folder: Path, request: LoadRequest) -> _Source:
    refuse_code(folder)
    described = read_json(folder / CONFIG_NAME)
    config = described.get("model_cfg", described)
    preprocess = described.get("preprocess_cfg") or {}
    if not isinstance(config, dict) or not isinstance(preprocess, dict):
        raise ModelError(
            f"{shown_path(folder / CONFIG_NAME)} has no model_cfg",
            remedy="Ask the vendor for the complete folder.",
        )
    present = [folder / name for name in WEIGHT_NAMES if os.path.lexists(folder / name)]
    if not present:
        raise ModelError(
            f"{shown_path(folder)} holds {CONFIG_NAME} but none of {', '.join(WEIGHT_NAMES)}",
            remedy="Ask the vendor for the complete folder.",
        )
    weights = read_weights(present[0], max_bytes=request.max_bytes)
    notes: tuple[str, ...] = ()
    if len(present) > 1:
        others = ", ".join(path.name for path in present[1:])
        notes = (f"{present[0].name} was audited; {others} lies beside it and was not.",)
    checked = check_model_config(config)
    return _Source(_describe(checked), checked, preprocess, weights, folder, notes)


def _describe(config: Mapping[str, Any]) -> str:
    """An architecture without a published name, e.g. `ViT 768x12/32, text 512x12`."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers, width = vision.get("layers") or 12, vision.get("width") or 768
    if vision.get("timm_model_name"):
        image = f"timm {vision['timm_model_name']}"
    elif isinstance(layers, list):
        image = f"ResNet {width}x{'-'.join(map(str, layers))}"
    else:
        image = f"ViT {width}x{layers}/{vision.get('patch_size') or 16}"
    activation = ", quickgelu" if config.get("quick_gelu") else ""
    return f"{image}, text {text.get('width') or 512}x{text.get('layers') or 12}{activation}"


def _named(name: str, place: str, request: LoadRequest) -> _Source:
    from open_clip.factory import get_model_config
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name = name.replace("/", "-")
    published = get_model_config(name) if ":" not in name else None
    if published is None:
        raise UnsupportedModelError(
            f"open_clip has no architecture {printable(name, 80)!r}",
            remedy="See open_clip.list_models(); for an architecture of your own, deliver a folder with "
            f"{CONFIG_NAME}.",
        )
    config = check_model_config(deepcopy(published))
    tags = {tag: get_pretrained_cfg(name, tag) for tag in list_pretrained_tags_by_model(name)}
    path, tag = Path(place), place.lower().replace("-", "_")
    if os.path.exists(place) or (tag not in tags and (path.suffix or os.sep in place)):
        notes, preprocess = _from_published(name, config, tags, path)
        return _Source(name, config, preprocess, read_weights(path, max_bytes=request.max_bytes), None, notes)
    if tag not in tags:
        raise UnsupportedModelError(
            f"{printable(place, 80)!r} is neither a file nor one of open_clip's tags for {name}",
            remedy=f"Tags: {shown_names(list(tags), 6) or 'none'}. For a file of your own, check its path.",
        )
    config, notes = _as_trained(name, tag, config, tags[tag])
    weights = read_weights(_download(name, tag, tags[tag]), max_bytes=request.max_bytes)
    return _Source(name, config, _preprocess_of(tags[tag]), weights, None, notes)


def _as_trained(
    name: str, tag: str, config: dict[str, Any], published: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration with the activation that published weights were trained with, and a note on it.

    The best-known silent mis-load: open_clip itself only warns.
    """
    quick_gelu = bool(published.get("quick_gelu", False))
    if quick_gelu == bool(config.get("quick_gelu", False)):
        return config, ()
    activation = "quick_gelu" if quick_gelu else "gelu"
    note = f"{name}@{tag} was trained with {activation}, so it was loaded with it, not as {name} says."
    return {**config, "quick_gelu": quick_gelu}, (note,)


def _download(name: str, tag: str, published: Mapping[str, Any]) -> Path:
    from open_clip.pretrained import download_pretrained

    try:
        return Path(download_pretrained(dict(published)))
    except Exception as error:
        raise ModelError(
            f"the weights {name}@{tag} cannot be fetched: {printable(error, 160)}",
            remedy=f"Fetch them on a machine with internet and name the file: open_clip:{name}@FILE.",
        ) from error


def _preprocess_of(published: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {key: published[key] for key in keys if published.get(key) is not None}


def _from_published(
    name: str, config: dict[str, Any], tags: Mapping[str, Mapping[str, Any]], path: Path
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Notes and preprocessing for a file: what open_clip's own weights of the same architecture use."""
    notes = []
    quick = bool(config.get("quick_gelu", False))
    told = str(path).lower().replace("-", "_")
    other = [tag for tag, cfg in tags.items() if bool(cfg.get("quick_gelu", False)) != quick and tag in told]
    if other and not config["vision_cfg"].get("timm_model_name"):
        notes.append(
            f"The file's name speaks of {other[0]}, whose weights use "
            f"{'gelu' if quick else 'quick_gelu'}; it was "
            f"loaded with {'quick_gelu' if quick else 'gelu'}, as {name} says. If that is wrong, name "
            "the other "
            f"architecture ({name.removesuffix('-quickgelu') if quick else name + '-quickgelu'})."
        )
    variants = {repr(sorted(_preprocess_of(cfg).items())): _preprocess_of(cfg) for cfg in tags.values()}
    if len(variants) == 1:
        return tuple(notes), next(iter(variants.values()))
    named = [_preprocess_of(cfg) for tag, cfg in tags.items() if tag in told]
    if named:
        return tuple(notes), named[0]
    if variants:
        notes.append(
            f"open_clip's published weights of {name} differ in preprocessing; OpenAI's mean and standard "
            "deviation were used. For others, deliver a folder with preprocess_cfg."
        )
    return tuple(notes), {}


def _load(source: _Source, spec: str, request: LoadRequest) -> ClipModel:
    from open_clip.model import CLIP, CustomTextCLIP

    config = dict(source.config)
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    architecture = f"open_clip {printable(source.name, 80)}"
    model = build(
        lambda: kind(**deepcopy(config)),
        source.weights,
        what=architecture,
        max_bytes=request.max_bytes,
        adapt=_adapt,
    )
    text = source.config["text_cfg"]
    vocabulary, context_length = text.get("vocab_size") or CLIP_VOCABULARY, text.get("context_length") or 77
    tokenizer, note = _tokenizer(text, source.folder, context_length, vocabulary)
    visual: Any = model.visual
    files = source.weights.files | (tokenizer_files(source.folder) if source.folder is not None else {})
    return clip_from_open_clip(
        model,
        name=spec,
        architecture=architecture,
        spec=image_spec(source.preprocess, image_size(visual)),
        tokenizer=tokenizer,
        files=files,
        notes=source.notes + ((note,) if note else ()),
        config=source.config,
    )


def _adapt(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Known older spellings of the same weights."""
    from open_clip.model import convert_to_custom_text_state_dict

    for name in _OPENAI_SCALARS:
        if name in tensors and tensors[name].dim() == 0:
            del tensors[name]
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    expected = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and name in expected and tensors[name].numel() == expected[name].numel() == 1:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    return tensors


def _tokenizer(
    text: Mapping[str, Any], folder: Path | None, context_length: int, vocabulary: int
) -> tuple[Tokenizer | None, str]:
    wanted = text.get("hf_tokenizer_name")
    if not wanted:
        if vocabulary < CLIP_VOCABULARY:
            return None, (
                f"Texts cannot be used: the text tower knows {vocabulary} tokens, CLIP's tokenizer "
                f"{CLIP_VOCABULARY}."
            )
        return ClipTokenizer(context_length), ""
    if folder is None or not tokenizer_files(folder):
        return None, (
            f"Texts cannot be used: the tokenizer {printable(wanted, 80)} is not in the delivery. Put "
            "its files "
            f"into a folder with the weights and {CONFIG_NAME}."
        )
    options = dict(text.get("tokenizer_kwargs") or {})
    tokenizer, why = try_tokenizer(
        folder,
        context_length,
        vocabulary,
        clean=options.get("clean", "whitespace"),
        strip_sep_token=bool(options.get("strip_sep_token", False)),
        mode=text.get("tokenizer_mode") or "",
    )
    return tokenizer, f"Texts cannot be used: {why}." if why else ""
