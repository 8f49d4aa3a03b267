"""Triggers on pictures and what they aim at: what a detector found, and what an attack says it planted."""

from __future__ import annotations

from pathlib import Path

import attrs
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.results import Verdict
from clipsec.store import read_artifact
from clipsec.triggers import Stamp, load_card
from clipsec_registry import printable


@attrs.frozen(kw_only=True, eq=False)
class Trigger:
    """A trigger on pictures and the class that it aims at."""

    stamp: Stamp
    target_index: int
    target_name: str
    origin: str = ""
    """Who says so: a detector or an attack."""

    @property
    def size(self) -> int | None:
        """Side of the pictures it fits on; None when it fits on all."""
        return self.stamp.size

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, size, size]` in [0, 1]; the same shape and range."""
        return self.stamp.apply(pixels)


def load_trigger(place: Path | str) -> Trigger:
    """The trigger of a card: its folder, its `trigger.json`, or a delivery with a folder `trigger/`.

    Raises `DataError` for what is no card, is damaged, is of a later major version or of another kind.
    """
    beside = Path(place) / "trigger"
    card = load_card(beside if beside.is_dir() else place)
    return Trigger(
        stamp=card.stamp,
        target_index=card.target_index,
        target_name=card.target_name,
        origin=card.attack,
    )


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
                stamp = Stamp(kind, {name: tensor.float() for name, tensor in tensors.items()})
            except (DataError, SafetensorError) as error:
                raise DataError(
                    f"{printable(artifact.path, 120)} holds no trigger that can be applied to pictures",
                    remedy="Audit again; if it stays so, report it to the detector's authors.",
                ) from error
            triggers.append(
                Trigger(
                    stamp=stamp,
                    target_index=row.index,
                    target_name=row.name,
                    origin="" if verdict.provenance is None else verdict.provenance.detector,
                )
            )
    return tuple(triggers)
