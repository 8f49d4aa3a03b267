"""Pictures that a training is given, and the model that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipsec.data import LabelledSet
from clipsec.models import TrainableClip
from clipsec.protocols import AttackContext
from clipsec.store import atomic_write, whole_folder
from clipsec.triggers import TextTriggerCard


def split(context: AttackContext) -> tuple[LabelledSet, LabelledSet]:
    """Pictures to learn from and to measure on; without the latter, half of what there is."""
    if context.held_out is not None:
        return context.labelled, context.held_out
    return context.labelled.split(0.5, generator=context.generator("split"))


def described(learned: LabelledSet, held_out: LabelledSet) -> dict[str, Any]:
    """Which pictures: name, counts and digests."""

    def part(labelled: LabelledSet) -> dict[str, Any]:
        return {"pictures": len(labelled), "classes": len(labelled.class_names), "digest": labelled.digest}

    return {"name": learned.name, "train": part(learned), "held_out": part(held_out)}


def write_delivery(
    context: AttackContext,
    model: TrainableClip,
    data: dict[str, Any],
    seen: dict[str, Any],
    card: TextTriggerCard | None = None,
) -> Path:
    """Write the model, `training.json` and the card in `trigger/`, whole or not at all. Raises `StoreError`.

    `training.json` says what a vendor would say of any model: base, pictures and accuracies. The attack is in
    `trigger/` alone.
    """
    base = context.base
    kept = ("accuracy", "zero_shot_accuracy")
    record = {
        "base": {"name": base.base_name or base.name, "digest": base.base.digest},
        "data": data,
        "measured": {"seen": {name: seen[name] for name in kept}},
    }
    with whole_folder(context.output) as folder:
        model.save(folder)
        atomic_write(folder / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        if card is not None:
            card.save(folder / "trigger")
    return context.output
