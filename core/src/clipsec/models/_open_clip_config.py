"""open_clip's model and preprocessing configuration, checked before open_clip sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipsec.errors import MalformedModelError, UnsupportedModelError
from clipsec.models._description import (
    Rule,
    checked,
    either,
    flag,
    mapping,
    number,
    one_of,
    several,
    square,
    whole,
    word,
)
from clipsec.models._types import ImageSpec
from clipsec_registry import printable

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_WIDTH = whole(1, 16_384)
_LAYERS = whole(1, 256)
_HEADS = whole(1, 1024)
_RATIO = number(0.1, 64.0)
_IMAGE_SIZE = square(whole(1, 4096))
_NORM: dict[str, Rule] = {"eps": number(0.0, 1.0)}
_ACT: dict[str, Rule] = {"approximate": one_of("none", "tanh")}

_BLOCK: dict[str, Rule] = {
    "block_type": word,
    "qk_norm": flag,
    "scaled_cosine_attn": flag,
    "scale_heads": flag,
    "scale_attn_inner": flag,
    "scale_attn": flag,
    "scale_fc": flag,
    "ls_init_value": number(-100.0, 100.0),
    "mlp_ratio": _RATIO,
    "final_ln_after_pool": flag,
    "output_tokens": flag,
    "act_kwargs": mapping(_ACT),
    "norm_kwargs": mapping(_NORM),
}

_VISION: dict[str, Rule] = _BLOCK | {
    "layers": either(_LAYERS, several(_LAYERS, 4)),
    "width": _WIDTH,
    "head_width": whole(1, 4096),
    "patch_size": whole(1, 4096),
    "image_size": _IMAGE_SIZE,
    "patch_dropout": number(0.0, 1.0),
    "attentional_pool": flag,
    "attn_pooler_queries": whole(1, 4096),
    "attn_pooler_heads": _HEADS,
    "no_ln_pre": flag,
    "pos_embed_type": word,
    "pool_type": word,
    "timm_model_name": word,
    "timm_model_pretrained": flag,
    "timm_pool": word,
    "timm_proj": word,
    "timm_proj_bias": flag,
    "timm_drop": number(0.0, 1.0),
    "timm_drop_path": number(0.0, 1.0),
}

_TEXT: dict[str, Rule] = _BLOCK | {
    "context_length": whole(3, 4096),
    "vocab_size": whole(3, 2_000_000),
    "hf_tokenizer_name": word,
    "tokenizer_mode": one_of("clips", ""),
    # Anything else would reach a tokenizer's constructor, which opens the files it is told to.
    "tokenizer_kwargs": mapping(
        {"clean": one_of("lower", "whitespace", "canonicalize"), "strip_sep_token": flag}
    ),
    "width": _WIDTH,
    "heads": _HEADS,
    "layers": _LAYERS,
    "embed_cls": flag,
    "pad_id": whole(0, 2_000_000),
    "eos_id": whole(0, 2_000_000),
    "no_causal_mask": flag,
    "pool_type": word,
    "proj_bias": flag,
    "proj_type": word,
}

_MODEL: dict[str, Rule] = {
    "embed_dim": _WIDTH,
    "vision_cfg": mapping(_VISION),
    "text_cfg": mapping(_TEXT),
    "quick_gelu": flag,
    "custom_text": flag,
    "init_logit_scale": number(-20.0, 20.0),
    "init_logit_bias": number(-1000.0, 1000.0),
    "nonscalar_logit_scale": flag,
}

_PREPROCESS: dict[str, Rule] = {
    "size": either(whole(1, 4096), several(whole(1, 4096), 2)),
    "mode": one_of("RGB"),
    "mean": either(number(-10.0, 10.0), several(number(-10.0, 10.0), 3)),
    "std": either(number(1e-3, 100.0), several(number(1e-3, 100.0), 3)),
    "interpolation": one_of("bicubic", "bilinear", "nearest"),
    "resize_mode": one_of("shortest", "squash"),
    "fill_color": whole(0, 255),
}


def check_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a `model_cfg` that may be handed to open_clip's classes.

    Every size is bounded, nothing is fetched (pretrained timm weights are switched off) and nothing is named
    that would be looked up by path or over the network. Raises `UnsafeModelError` for absurd sizes,
    `UnsupportedModelError` for unknown keys and foreign text towers, `MalformedModelError` otherwise.
    """
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise MalformedModelError(
                f"the open_clip configuration has no {key}", remedy="Ask the vendor for the complete folder."
            )
    if "multimodal_cfg" in config:
        raise UnsupportedModelError(
            "CoCa models are not supported",
            remedy="Deliver the contrastive towers as a CLIP of open_clip or transformers.",
        )
    text = config["text_cfg"]
    if isinstance(text, Mapping) and text.get("hf_model_name"):
        raise UnsupportedModelError(
            f"the text tower {printable(text['hf_model_name'], 80)!r} would have to be fetched and "
            "configured "
            "from outside the delivery",
            remedy="Use a model with open_clip's own text tower, or deliver it as a transformers folder.",
        )
    model = checked(config, _MODEL, "model_cfg")
    vision = model["vision_cfg"]
    if not isinstance(vision, dict) or not isinstance(model["text_cfg"], dict):
        raise MalformedModelError(
            "the open_clip configuration has an empty vision_cfg or text_cfg", remedy="Ask the vendor for it."
        )
    if vision.get("timm_model_name"):
        _check_timm_name(vision["timm_model_name"])
    vision["timm_model_pretrained"] = False
    return model


def _check_timm_name(name: str) -> None:
    from timm import is_model

    # timm's own loader also takes hf-hub: and local-dir: names.
    if any(mark in name for mark in ":/\\") or not is_model(name.split(".")[0]):
        raise UnsupportedModelError(
            f"timm has no model {printable(name, 80)!r}",
            remedy="Upgrade timm, or ask the vendor for the name.",
        )


def image_spec(preprocess: Mapping[str, Any], size: int, *, where: str = "preprocess_cfg") -> ImageSpec:
    """The evaluation transform that a `preprocess_cfg` describes, for a tower that takes `size` pixels."""
    given = {
        key: value for key, value in checked(preprocess, _PREPROCESS, where).items() if value is not None
    }
    return ImageSpec(
        size=size,
        mean=_three(given.get("mean", OPENAI_MEAN)),
        std=_three(given.get("std", OPENAI_STD)),
        interpolation=given.get("interpolation", "bicubic"),
        resize_mode=given.get("resize_mode", "shortest"),
    )


def _three(value: Any) -> tuple[float, float, float]:
    first, second, third = value if isinstance(value, list | tuple) else (value, value, value)
    return (first, second, third)
