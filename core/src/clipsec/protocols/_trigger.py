"""Triggers on pictures: what a detector found, and what an attack's trigger card says it planted.

Both are safetensors files, on pixels in [0, 1] after resize and crop and before normalisation:

    additive   x' = clip(x + delta, 0, 1)               `delta [3, size, size]`, pixel units
    blend      x' = (1 - ratio) x + ratio pattern       `pattern [3, size, size]` in [0, 1], ratio: the card
    masked     x' = (1 - mask) x + mask pattern         `mask [1 or 3, size, size]` and `pattern`, in [0, 1]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.results import Verdict
from clipsec.store import read_artifact
from clipsec_registry import printable

CARD_NAME = "trigger.json"
_CARD_FORMAT = "clipsec trigger card"
_CARD_MAJOR = "1"
_LARGEST = 64 * 2**20
_TENSORS = {"additive": {"delta"}, "blend": {"pattern"}, "masked": {"mask", "pattern"}}


@attrs.frozen(kw_only=True, eq=False)
class Trigger:
    """A trigger on pictures and the class that it aims at."""

    kind: str
    """`additive`, `blend` or `masked`."""
    tensors: Mapping[str, Tensor]
    """float32; which ones depends on the kind."""
    ratio: float = 0.0
    """Share of the pattern, for `blend`."""
    target_index: int
    target_name: str
    origin: str = ""
    """Who says so: a detector or an attack."""

    @property
    def size(self) -> int:
        """Side of the pictures it fits on."""
        return max(tensor.shape[-1] for tensor in self.tensors.values())

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, size, size]` in [0, 1]; the same shape and range."""
        tensors = {name: tensor.to(pixels) for name, tensor in self.tensors.items()}
        if self.kind == "additive":
            return (pixels + tensors["delta"]).clamp(0.0, 1.0)
        if self.kind == "blend":
            return (1.0 - self.ratio) * pixels + self.ratio * tensors["pattern"]
        return (1.0 - tensors["mask"]) * pixels + tensors["mask"] * tensors["pattern"]


def load_trigger(place: Path | str) -> Trigger:
    """The trigger of a card: its folder, its `trigger.json`, or a delivery with a folder `trigger/`.

    Raises `DataError` for what is no card, is damaged, is of a later major version or of another kind.
    """
    place = Path(place)
    found = [p for p in (place / CARD_NAME, place / "trigger" / CARD_NAME) if p.is_file()]
    card = found[0] if found else place
    try:
        body = json.loads(card.read_text(encoding="utf-8"))
        if not isinstance(body, dict) or body.get("format") != _CARD_FORMAT:
            raise ValueError("it is not a trigger card")
        if str(body["version"]).partition(".")[0] != _CARD_MAJOR:
            raise ValueError(f"its version {body['version']} is not {_CARD_MAJOR}.x")
        if body["kind"] not in _TENSORS:
            raise ValueError(f"its kind {body['kind']!r} is none of {', '.join(_TENSORS)}")
        file = Path(body["tensors"]["file"])
        if file.name != str(file):
            raise ValueError("its tensors lie outside of its folder")
        content = _read(card.parent / file)
        if hashlib.sha256(content).hexdigest() != body["tensors"]["sha256"]:
            raise ValueError(f"{file} does not have the recorded sha256")
        return Trigger(
            kind=body["kind"],
            tensors=_tensors(content, body["kind"]),
            ratio=float(body.get("ratio") or 0.0),
            target_index=int(body["target_index"]),
            target_name=str(body["target_name"]),
            origin=str(body.get("attack", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{place} cannot be read as a trigger card: {printable(str(error), 200)}",
            remedy="Name a folder with trigger.json and its tensors, as `clipsec attack` writes it.",
        ) from error


def found_triggers(verdict: Verdict, folder: Path | str, *, flagged: bool = True) -> tuple[Trigger, ...]:
    """The triggers that a detector left as artifacts of its evidence, the most suspicious class first.

    `folder` is what the artifacts' paths count from (the run's). `flagged` leaves out classes that the
    verdict does not flag. Evidence without a trigger file gives none. Raises `StoreError` for a file that is
    gone or was changed since, `DataError` for one that holds no trigger.
    """
    rows = [row for row in verdict.evidence if row.flagged or not flagged]
    rows.sort(key=lambda row: (row.index != verdict.target_index, -row.measures.get("score", 0.0)))
    triggers = []
    for row in rows:
        for artifact in row.artifacts:
            if artifact.kind != "trigger":
                continue
            try:
                tensors = safetensors.torch.load(read_artifact(artifact, folder))
                kind = "masked" if "mask" in tensors else "additive"
                checked = _checked(tensors, kind)
            except (ValueError, SafetensorError) as error:
                raise DataError(
                    f"{printable(artifact.path, 120)} holds no trigger that can be applied to pictures",
                    remedy="Audit again; if it stays so, report it to the detector's authors.",
                ) from error
            triggers.append(
                Trigger(
                    kind=kind,
                    tensors=checked,
                    target_index=row.index,
                    target_name=row.name,
                    origin="" if verdict.provenance is None else verdict.provenance.detector,
                )
            )
    return tuple(triggers)


def _read(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.name} is larger than {_LARGEST >> 20} MiB")
    return path.read_bytes()


def _tensors(content: bytes, kind: str) -> dict[str, Tensor]:
    return _checked(safetensors.torch.load(content), kind)


def _checked(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    if set(tensors) != _TENSORS[kind]:
        raise ValueError(f"its tensors are {', '.join(sorted(tensors))}")
    for name, tensor in tensors.items():
        channels = (1, 3) if name == "mask" else (3,)
        if tensor.dim() != 3 or tensor.shape[0] not in channels or tensor.shape[1] != tensor.shape[2]:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} does not hold finite numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}
