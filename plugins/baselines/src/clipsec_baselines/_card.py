"""Trigger cards: what an attack planted, so that a detector or `clipsec expose` can be tested with it.

A card is a folder with

    trigger.json          what it is, how to apply it, the target, the parameters, what was measured
    trigger.safetensors   its tensors, float32
    trigger.png           the tensors at visible contrast, for people

`kind` alone says how to apply it, so that a reader needs to know no attack: on pixels in [0, 1], after resize
and crop and before normalisation,

    additive   x' = clip(x + delta, 0, 1)                  delta [3, size, size], pixel units
    blend      x' = (1 - ratio) x + ratio pattern          pattern [3, size, size] in [0, 1]
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.store import atomic_write
from clipsec_baselines._triggers import blend

FORMAT = "clipsec trigger card"
VERSION = "1.0"
KINDS = {"additive": "delta", "blend": "pattern"}
"""Kind of trigger to the name of its tensor."""

_HOW = {
    "additive": "x' = clip(x + delta, 0, 1)",
    "blend": "x' = (1 - ratio) x + ratio pattern",
}


@attrs.frozen(kw_only=True, eq=False)
class TriggerCard:
    """A planted trigger. Everything but `tensor` is plain data."""

    attack: str
    """`badclip`, `blended`, ..."""
    kind: str = attrs.field(validator=attrs.validators.in_(KINDS))
    tensor: Tensor
    """float32 `[3, size, size]`; see the kinds above."""
    ratio: float | None = None
    """Share of the pattern, for `blend`."""
    target_index: int
    target_name: str
    seed: int
    base_name: str
    base_digest: str
    parameters: dict[str, Any]
    """Every option of the attack, by name."""
    data: dict[str, Any]
    """Name, digests and sizes of what was trained and measured on."""
    measured: dict[str, Any]
    """`seen` and perhaps `unseen`: clean accuracy and success rate with counts and 95% Wilson intervals."""
    references: tuple[str, ...] = ()

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp `[n, 3, size, size]` in [0, 1]."""
        tensor = self.tensor.to(pixels)
        if self.kind == "blend":
            return blend(pixels, tensor, self.ratio or 0.0)
        return (pixels + tensor).clamp(0.0, 1.0)

    def save(self, folder: Path) -> None:
        """Write the three files; `trigger.json` last, so that a card that can be read is whole.

        Raises `StoreError`.
        """
        content = safetensors.torch.save({KINDS[self.kind]: self.tensor.detach().float().contiguous()})
        atomic_write(folder / "trigger.safetensors", content)
        atomic_write(folder / "trigger.png", picture_of(self.tensor, self.kind))
        plain = attrs.asdict(self, filter=attrs.filters.exclude("tensor"))
        body = {
            "format": FORMAT,
            "version": VERSION,
            **plain,
            "apply": _HOW[self.kind],
            "frame": "pixels in [0, 1] after the evaluation resize and crop, before normalisation",
            "tensors": {"file": "trigger.safetensors", "sha256": hashlib.sha256(content).hexdigest()},
        }
        atomic_write(folder / "trigger.json", (json.dumps(body, indent=2) + "\n").encode())


def load_card(place: Path | str) -> TriggerCard:
    """Read a card from its folder or from its `trigger.json`.

    Raises `DataError` when it is not a card, is damaged, or is of a later major version.
    """
    place = Path(place)
    path = place / "trigger.json" if place.is_dir() else place
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError("it is not a trigger card")
        if str(body["version"]).partition(".")[0] != VERSION.partition(".")[0]:
            raise ValueError(f"its version {body['version']} is not {VERSION}")
        if body["tensors"]["file"] != "trigger.safetensors":
            raise ValueError("its tensors lie elsewhere")
        content = (path.parent / "trigger.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != body["tensors"]["sha256"]:
            raise ValueError("trigger.safetensors does not have the recorded sha256")
        tensor = safetensors.torch.load(content)[KINDS[body["kind"]]]
        if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.shape[1] != tensor.shape[2]:
            raise ValueError(f"its tensor has the shape {list(tensor.shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError("its tensor is not finite")
        fields = {field.name for field in attrs.fields(TriggerCard)} - {"tensor", "references"}
        return TriggerCard(
            **{name: body[name] for name in fields},
            tensor=tensor.float(),
            references=tuple(body.get("references", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{place} cannot be read as a trigger card: {error}",
            remedy="Name a folder with trigger.json and trigger.safetensors, as an attack writes it.",
        ) from error


def picture_of(tensor: Tensor, kind: str) -> bytes:
    """A PNG of a trigger: an additive one stretched around mid grey to full contrast, a pattern as it is."""
    shown = tensor.detach().float()
    if kind == "additive":
        shown = 0.5 + 0.5 * shown / shown.abs().max().clamp_min(1e-12)
    array = (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()
