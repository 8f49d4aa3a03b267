"""Kinds of trigger. The kind alone says how to apply one, so that a reader needs to know no attack."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.triggers._stamps import add, blend, cover, paste, warp
from clipsec_registry import printable

CARD_FILE, TENSORS_FILE = "trigger.json", "trigger.safetensors"
_LARGEST = 64 * 2**20
_FRAME, _OBJECT = ("size", "size"), ("height", "width")


@attrs.frozen
class Kind:
    """How triggers of one kind are stored and applied."""

    formula: str
    tensors: Mapping[str, tuple[int | str | frozenset[int], ...]]
    """Name of each tensor to its shape; a word stands for a length that is the same wherever it occurs, a set
    for those allowed."""
    stamp: Callable[..., Tensor]
    """Takes the pixels, then the tensors and the values by name."""
    values: tuple[str, ...] = ()
    """Names of the numbers that it needs beside the tensors."""


KINDS: Mapping[str, Kind] = {
    "additive": Kind("x' = clip(x + delta, 0, 1)", {"delta": (3, *_FRAME)}, add),
    "blend": Kind("x' = (1 - ratio) x + ratio pattern", {"pattern": (3, *_FRAME)}, blend, ("ratio",)),
    "masked": Kind(
        "x' = (1 - mask) x + mask pattern",
        {"pattern": (3, *_FRAME), "mask": (frozenset({1, 3}), *_FRAME)},
        cover,
    ),
    "paste": Kind(
        "pattern, cut out by mask, pasted into each picture at a size (share of the side from smallest to "
        "largest) and place drawn by place_seed and the picture's pixels, see clipsec.triggers.placements",
        {"pattern": (3, *_OBJECT), "mask": (1, *_OBJECT)},
        paste,
        ("smallest", "largest", "place_seed"),
    ),
    "warp": Kind(
        "x' = x sampled at grid: (x, y) from -1 to 1, bilinear, corners aligned",
        {"grid": (*_FRAME, 2)},
        warp,
    ),
}
"""Every kind that changes pictures; cards of kinds that change captions are not read here."""


@attrs.frozen(eq=False)
class Stamp:
    """What a trigger does to pictures.

    Raises `DataError` for an unknown kind, or tensors and values that are not those of the kind.
    """

    kind: str
    tensors: dict[str, Tensor]
    """float32, finite, see `KINDS`."""
    values: dict[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        complaint = _complaint(self)
        if complaint:
            raise DataError(
                f"this is not a trigger that can be applied: {complaint}",
                remedy=f"Kinds: {', '.join(sorted(KINDS))}; see clipsec.triggers.KINDS for what each holds.",
            )

    @property
    def size(self) -> int | None:
        """Side of the pictures it fits on; None when it fits on all."""
        for name, shape in KINDS[self.kind].tensors.items():
            if "size" in shape:
                return self.tensors[name].shape[shape.index("size")]
        return None

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, size, size]` in [0, 1]. Raises `DataError` when they have another size."""
        if self.size not in (None, pixels.shape[-1]):
            raise DataError(
                f"the trigger is for pictures of {self.size} pixels, these have {pixels.shape[-1]}",
                remedy="Apply it to the pictures as the model it was made for sees them.",
            )
        kind = KINDS[self.kind]
        tensors = {name: tensor.to(pixels) for name, tensor in self.tensors.items()}
        return kind.stamp(pixels, **tensors, **self.values)

    def shown(self) -> Tensor:
        """The trigger itself at visible contrast, for people: `[3, height, width]` in [0, 1]."""
        if self.kind == "additive":
            delta = self.tensors["delta"]
            return 0.5 + 0.5 * delta / delta.abs().max().clamp_min(1e-12)
        if self.kind == "warp":
            side = self.tensors["grid"].shape[0]
            cell = torch.arange(side) // max(1, side // 16)
            board = ((cell[:, None] + cell[None, :]) % 2).float().expand(1, 3, side, side)
            return self.apply(board)[0]
        pattern, mask = self.tensors["pattern"], self.tensors.get("mask")
        return pattern if mask is None else mask * pattern + (1 - mask) * 0.5


def card_folders(delivery: Path | str) -> tuple[Path, ...]:
    """The folders of the cards below a delivery, of triggers on pictures and in captions, in order of name.

    Of a card itself, its folder. Empty where there is none.
    """
    return tuple(sorted(path.parent for path in Path(delivery).rglob(CARD_FILE)))


def read_body(place: Path | str) -> tuple[dict[str, Any], Path]:
    """A card's JSON and its folder. `place` is that folder, the JSON, or a delivery with a folder `trigger/`.

    Raises `DataError`.
    """
    place = Path(place)
    within = (place / CARD_FILE, place / "trigger" / CARD_FILE)
    path = next((file for file in within if file.is_file()), place)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
            raise ValueError("it does not say the kind of a trigger")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return body, path.parent


def stamp_of(body: Mapping[str, Any], folder: Path) -> Stamp:
    """The stamp of a card that was read. Raises `DataError`."""
    kind = KINDS.get(body["kind"])
    try:
        if kind is None:
            raise ValueError(f"the kind {body['kind']!r} is not known")
        recorded = body.get("tensors", {"file": TENSORS_FILE})
        if recorded["file"] != TENSORS_FILE:
            raise ValueError("its tensors lie elsewhere")
        if (folder / TENSORS_FILE).stat().st_size > _LARGEST:
            raise ValueError(f"{TENSORS_FILE} is larger than {_LARGEST >> 20} MiB")
        content = (folder / TENSORS_FILE).read_bytes()
        if recorded.get("sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
            raise ValueError(f"{TENSORS_FILE} does not have the recorded sha256")
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(content).items()}
        values = {name: float(body[name]) for name in kind.values}
        return Stamp(body["kind"], tensors, values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, DataError) as error:
        raise unreadable(folder, error) from error


def unreadable(place: Path, error: Exception) -> DataError:
    """The error for a card that is not one."""
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return DataError(
        f"{place} cannot be read as a trigger card: {printable(said, 200)}",
        remedy="Name a folder with trigger.json and its tensors, as `clipsec attack` writes it.",
    )


def png(picture: Tensor) -> bytes:
    """A PNG of `[3, height, width]` in [0, 1]."""
    steps = (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(steps.permute(1, 2, 0).numpy())).save(stream, "PNG")
    return stream.getvalue()


def _complaint(stamp: Stamp) -> str:
    kind = KINDS.get(stamp.kind)
    if kind is None:
        return f"the kind {stamp.kind!r} is not known"
    if set(stamp.tensors) != set(kind.tensors):
        return f"its tensors are {sorted(stamp.tensors)}, a {stamp.kind} has {sorted(kind.tensors)}"
    if set(stamp.values) != set(kind.values):
        return f"its values are {sorted(stamp.values)}, a {stamp.kind} has {sorted(kind.values)}"
    lengths: dict[str, int] = {}
    for name, wanted in kind.tensors.items():
        shape = tuple(stamp.tensors[name].shape)
        fits = len(shape) == len(wanted) and 0 not in shape
        for length, allowed in zip(shape, wanted):
            if isinstance(allowed, str):
                fits &= lengths.setdefault(allowed, length) == length
            else:
                fits &= length in allowed if isinstance(allowed, frozenset) else length == allowed
        if not fits:
            return f"{name} has the shape {list(shape)}"
        if not bool(torch.isfinite(stamp.tensors[name]).all()):
            return f"{name} is not finite"
    bad = [name for name, value in stamp.values.items() if not np.isfinite(value)]
    return f"{bad[0]} is not finite" if bad else ""
