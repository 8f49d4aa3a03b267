"""transformers' CLIP and SigLIP configurations, reduced to what describes the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipsec.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from clipsec.models._description import Rule, either, number, one_of, several, square, whole
from clipsec.models._open_clip_config import OPENAI_MEAN, OPENAI_STD
from clipsec.models._types import ImageSpec
from clipsec_registry import printable

ACTIVATIONS = ("gelu", "quick_gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")

_TOWER: dict[str, Rule] = {
    "hidden_size": whole(1, 16_384),
    "intermediate_size": whole(1, 131_072),
    "num_hidden_layers": whole(1, 256),
    "num_attention_heads": whole(1, 1024),
    "hidden_act": one_of(*ACTIVATIONS),
    "layer_norm_eps": number(0.0, 1.0),
}
_TEXT: dict[str, Rule] = _TOWER | {
    "vocab_size": whole(3, 2_000_000),
    "max_position_embeddings": whole(3, 4096),
    "projection_dim": whole(1, 16_384),
    "projection_size": whole(1, 16_384),
    "pad_token_id": whole(-1, 2_000_000),
    "bos_token_id": whole(-1, 2_000_000),
    "eos_token_id": whole(-1, 2_000_000),
}
_VISION: dict[str, Rule] = _TOWER | {
    "num_channels": whole(3, 3),
    "image_size": square(whole(1, 4096)),
    "patch_size": square(whole(1, 4096)),
    "projection_dim": whole(1, 16_384),
}
_JOINT: dict[str, Rule] = {"projection_dim": whole(1, 16_384), "logit_scale_init_value": number(-20.0, 20.0)}

_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def refuse_foreign(config: Mapping[str, Any], where: str) -> None:
    """Raise `UnsafeModelError` for code of the delivery's own, `UnsupportedModelError` for quantised
    weights."""
    for section in (config, config.get("text_config"), config.get("vision_config")):
        if not isinstance(section, Mapping):
            continue
        if section.get("auto_map"):
            raise UnsafeModelError(
                f"{where} wants Python code of the delivery to be run (auto_map)",
                remedy="Ask the vendor for the model in a class that transformers itself has, and remove "
                "auto_map.",
            )
        if section.get("quantization_config"):
            raise UnsupportedModelError(
                f"{where} describes quantised weights",
                remedy="Ask the vendor for fp32, fp16 or bf16 weights.",
            )


def reduced(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The architecture's facts, every value checked; all other keys are dropped.

    Configurations carry dozens of keys that change nothing here, and some that do things: an
    `attn_implementation` that looks like a repository is fetched and run. So what is known is picked out.
    """
    if "text_config" in config or "vision_config" in config:
        kept = _pick(config, _JOINT, where)
        for name, rules in (("text_config", _TEXT), ("vision_config", _VISION)):
            # The older spelling, where it is given, counts for transformers too.
            section = {**_section(config, name, where), **_section(config, f"{name}_dict", where)}
            kept[name] = _pick(section, rules, f"{where}: {name}")
        return kept
    rules = _VISION if "image_size" in config or "patch_size" in config else _TEXT
    return _pick(config, rules, where)


def _section(config: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MalformedModelError(
            f"{where}: {name} is not an object", remedy="Ask the vendor for the configuration of the weights."
        )
    return value


def _pick(section: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    return {
        key: rule(f"{where}.{key}", section[key])
        for key, rule in rules.items()
        if section.get(key) is not None
    }


def processor_spec(
    processor: Mapping[str, Any], size: int, *, siglip: bool
) -> tuple[ImageSpec, tuple[str, ...]]:
    """The transform that a `preprocessor_config.json` describes, or CLIP's or SigLIP's own; and notes."""
    three = either(number(-10.0, 10.0), several(number(-10.0, 10.0), 3))
    where = "preprocessor_config"
    mean: Any = (0.5, 0.5, 0.5) if siglip else OPENAI_MEAN
    std: Any = (0.5, 0.5, 0.5) if siglip else OPENAI_STD
    if processor.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean = three(f"{where}.image_mean", processor.get("image_mean") or mean)
        std = three(f"{where}.image_std", processor.get("image_std") or std)
    mean, std = (list(value) if isinstance(value, list | tuple) else [value] * 3 for value in (mean, std))
    if min(std) <= 0:
        raise MalformedModelError(f"{where}.image_std is not positive", remedy="Ask the vendor for the file.")
    resample = processor.get("resample", 3)
    if resample not in _RESAMPLING:
        raise UnsupportedModelError(
            f"{where}.resample is {printable(resample, 40)}; known are 0, 2 and 3",
            remedy="Ask the vendor for nearest, bilinear or bicubic resampling.",
        )
    given = processor.get("size")
    squash = siglip if not isinstance(given, Mapping) else "shortest_edge" not in given
    told = _told_size(processor.get("crop_size")) or _told_size(given)
    notes: tuple[str, ...] = ()
    if told is not None and told != size:
        notes = (
            f"preprocessor_config.json says {told} pixels, the image tower takes {size}; {size} are used.",
        )
    spec = ImageSpec(
        size=size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=_RESAMPLING[resample],
        resize_mode="squash" if squash else "shortest",
    )
    return spec, notes


def _told_size(value: object) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("shortest_edge", value.get("height"))
    return value if type(value) is int else None
