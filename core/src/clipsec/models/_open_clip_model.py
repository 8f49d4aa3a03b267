"""What an open_clip module in memory is: its parts, sizes, activation and digests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn

from clipsec.errors import UnsupportedModelError
from clipsec.models._build import frozen
from clipsec.models._digest import combine_digests, layer_facts, tensor_digests
from clipsec.models._open_clip_config import image_spec
from clipsec.models._tokenizers import CLIP_VOCABULARY, ClipTokenizer
from clipsec.models._types import ClipModel, ImageSpec, TextPart, Tokenizer, VisualPart


def image_size(visual: Any) -> int:
    size = visual.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if height != width:
        raise UnsupportedModelError(
            f"the image tower takes {height} x {width} pixels; only square pictures are supported",
            remedy="Ask for a variant of the model with square input.",
        )
    return int(height)


def clip_from_open_clip(
    model: nn.Module,
    *,
    name: str,
    architecture: str | None = None,
    spec: ImageSpec | Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    files: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    config: Mapping[str, Any] | None = None,
) -> ClipModel:
    """A `ClipModel` around an open_clip `CLIP` or `CustomTextCLIP` in memory.

    `spec` is the evaluation transform (an `ImageSpec` or an open_clip `preprocess_cfg`), by default the one
    that `create_model` left on the tower, or OpenAI's. `tokenizer` is CLIP's own for a vocabulary of 49,408
    tokens; other text towers need theirs, and are left out without it. `config` is the `model_cfg` that the
    model was built from; without it the model cannot be written again. The model is copied unless it is in
    fp32, on the CPU, frozen and in eval mode already.

    Raises `UnsupportedModelError` for any other kind of module.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    if not isinstance(model, CLIP | CustomTextCLIP):
        raise UnsupportedModelError(
            f"a {type(model).__name__} is not an open_clip CLIP",
            remedy="Pass open_clip's CLIP or CustomTextCLIP.",
        )
    model = frozen(model)
    visual: Any = model.visual
    text: Any = model if isinstance(model, CLIP) else model.text
    if not isinstance(spec, ImageSpec):
        given = spec if spec is not None else getattr(visual, "preprocess_cfg", None) or {}
        spec = image_spec(given, image_size(visual))
    width, context_length = text.token_embedding.weight.shape[1], text.positional_embedding.shape[0]
    if tokenizer is None and text.token_embedding.weight.shape[0] == CLIP_VOCABULARY:
        tokenizer = ClipTokenizer(context_length)

    digests = tensor_digests(model.state_dict())
    activation = _activation(model)
    embed_dim = _embed_dim(text)
    seen = {path: digest for path, digest in digests.items() if path.startswith("visual.")}
    read = {path: digest for path, digest in digests.items() if not path.startswith(("visual.", "logit_"))}
    facts = layer_facts(model)
    visual_facts = {path: fact for path, fact in facts.items() if path.startswith("visual.")}
    text_facts = {path: fact for path, fact in facts.items() if not path.startswith("visual.")}
    text_facts |= {
        "pooling": getattr(model, "text_pool_type", None) or getattr(text, "pool_type", "argmax"),
        "causal": getattr(text, "attn_mask", None) is not None,
        "tokenizer": getattr(tokenizer, "fingerprint", "given"),
    }
    common = {"library": "open_clip", "activation": activation}
    logit_scale: Any = model.logit_scale
    logit_bias: Any = model.logit_bias
    return ClipModel(
        name=name,
        architecture=architecture or f"open_clip {type(model).__name__}",
        activation=activation,
        digest=combine_digests(
            digests, visual=visual_facts, text=text_facts, image=attrs.asdict(spec), **common
        ),
        visual=VisualPart(
            module=visual,
            spec=spec,
            embed_dim=embed_dim,
            library="open_clip",
            digest=combine_digests(seen, layers=visual_facts, image=attrs.asdict(spec), **common),
        ),
        text=None
        if tokenizer is None
        else TextPart(
            module=text,
            tokenizer=tokenizer,
            context_length=context_length,
            width=width,
            embed_dim=embed_dim,
            library="open_clip",
            digest=combine_digests(read, layers=text_facts, **common),
        ),
        logit_scale=math.exp(float(logit_scale)),
        logit_bias=0.0 if logit_bias is None else float(logit_bias),
        files=dict(files or {}),
        notes=notes,
        config=dict(config or {}),
    )


def _activation(model: nn.Module) -> str:
    """The activation of the transformer blocks; timm's and ResNet towers have their own, the text tower
    always one."""
    text: Any = getattr(model, "text", model)
    kinds = {type(layer).__name__ for layer in text.transformer.modules()}
    if "QuickGELU" in kinds:
        return "quick_gelu"
    if any(
        isinstance(layer, nn.GELU) and layer.approximate == "tanh" for layer in text.transformer.modules()
    ):
        return "gelu_tanh"
    return "gelu" if "GELU" in kinds else ", ".join(sorted(kinds & {"ReLU", "SiLU"})) or "unknown"


def _embed_dim(text: Any) -> int:
    """Both towers end in the same space; the text tower says how wide it is without running."""
    projection = text.text_projection
    if projection is None:
        return int(text.token_embedding.weight.shape[1])
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])
