"""`clipsec.json`: what a prompt-tuned delivery says about itself, beside the authors' own files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from clipsec.errors import MalformedModelError, UnsupportedModelError
from clipsec.models._files import open_regular, read_json, shown_path
from clipsec_registry import printable

DELIVERY_NAME = "clipsec.json"
DELIVERY_FORMAT = "clipsec prompt-tuned delivery"
DELIVERY_VERSION = 1
CLASS_LIMIT = 100_000
NAME_LIMIT = 500
METHODS = ("CoOp", "CoCoOp")
POSITIONS = ("end", "middle", "front")

_ASK = "Ask the vendor for the complete delivery."


@attrs.frozen(kw_only=True)
class Delivery:
    """The contents of `clipsec.json`, checked. Empty fields were not given."""

    method: str = ""
    class_names: tuple[str, ...] = ()
    class_token_position: str = "end"
    weights: str = ""
    """The weights file, relative to the folder; without it the authors' rule applies."""
    base: str = ""
    base_digest: str = ""
    base_activation: str = ""
    logit_scale: float | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    def to_json(self) -> bytes:
        """The file's content."""
        value = {
            "format": DELIVERY_FORMAT,
            "version": DELIVERY_VERSION,
            "method": self.method,
            "class_names": list(self.class_names),
            "class_token_position": self.class_token_position,
            "weights": self.weights,
            "base": {"spec": self.base, "digest": self.base_digest, "activation": self.base_activation},
            "logit_scale": self.logit_scale,
            "extra": dict(self.extra),
        }
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_delivery(folder: Path) -> Delivery:
    """`clipsec.json` of a folder, or an empty `Delivery` when there is none.

    Raises `MalformedModelError` for wrong types and values, `UnsupportedModelError` for a newer version.
    """
    path = folder / DELIVERY_NAME
    if not os.path.lexists(path):
        return Delivery()
    value, where = read_json(path), shown_path(path)
    if value.get("format") != DELIVERY_FORMAT:
        raise MalformedModelError(f"{where} does not say that it is a {DELIVERY_FORMAT}", remedy=_ASK)
    if value.get("version") != DELIVERY_VERSION:
        raise UnsupportedModelError(
            f"{where} has version {printable(value.get('version'), 20)}, known is {DELIVERY_VERSION}",
            remedy="Upgrade clipsec.",
        )
    base = value.get("base") or {}
    if not isinstance(base, dict):
        raise MalformedModelError(f"{where}: base is not an object", remedy=_ASK)
    scale, names = value.get("logit_scale"), value.get("class_names") or []
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < 1e6):
        raise MalformedModelError(f"{where}: logit_scale is not a positive number", remedy=_ASK)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedModelError(f"{where}: class_names is not a list of texts", remedy=_ASK)
    extra = value.get("extra") or {}
    return Delivery(
        method=_choice(value, "method", METHODS, where),
        class_names=tuple(names),
        class_token_position=_choice(value, "class_token_position", POSITIONS, where) or "end",
        weights=_text(value, "weights", where),
        base=_text(base, "spec", where),
        base_digest=_text(base, "digest", where),
        base_activation=_text(base, "activation", where),
        logit_scale=None if scale is None else float(scale),
        extra=extra if isinstance(extra, dict) else {},
    )


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > 1000 or not text.isprintable():
        raise MalformedModelError(f"{where}: {key} is not a short text", remedy=_ASK)
    return text


def _choice(value: Mapping[str, Any], key: str, words: Sequence[str], where: str) -> str:
    text = _text(value, key, where)
    if text and text not in words:
        raise UnsupportedModelError(
            f"{where}: {key} is {printable(text, 60)!r}; known are {', '.join(words)}",
            remedy="Upgrade clipsec, or ask the vendor for a CoOp or CoCoOp delivery.",
        )
    return text


def listed_class_names(folder: Path) -> tuple[str, ...]:
    """The lines of `classnames.txt`, or nothing when there is no such file. Trailing empty lines do not
    count."""
    path = folder / "classnames.txt"
    if not os.path.lexists(path):
        return ()
    with open_regular(path, max_bytes=CLASS_LIMIT * NAME_LIMIT) as opened:
        data = opened.file.read()
    try:
        lines = [line.strip() for line in data.decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise MalformedModelError(
            f"{shown_path(path)} is not UTF-8 text", remedy="Save it as UTF-8."
        ) from error
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if a classifier can have them: two or more, none empty, none twice.

    Names that differ only in case or in underscores make the same prompt. Raises `MalformedModelError`.
    """
    remedy = "Give the class names in the order of training: --classes FILE, one a line."
    if len(names) < 2:
        raise MalformedModelError(
            f"there {'is one class name' if names else 'are no class names'}; a classifier has at least two",
            remedy=remedy,
        )
    if len(names) > CLASS_LIMIT:
        raise MalformedModelError(f"there are {len(names):,} class names", remedy=remedy)
    for index, name in enumerate(names):
        if not name.replace("_", " ").strip():
            raise MalformedModelError(f"class name {index + 1} of {len(names)} is empty", remedy=remedy)
        if len(name) > NAME_LIMIT:
            raise MalformedModelError(f"class name {index + 1} has {len(name):,} characters", remedy=remedy)
    counts = Counter(" ".join(name.replace("_", " ").lower().split()) for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise MalformedModelError(f"the class name {printable(twice[0], 80)!r} appears twice", remedy=remedy)
    return tuple(names)
