"""Pictures that a training is given, and the model that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipsec.data import LabelledSet
from clipsec.models import TrainableClip
from clipsec.protocols import AttackContext
from clipsec.store import atomic_write, whole_folder
from clipsec.triggers import TriggerCard

_TOLD = ("accuracy", "zero_shot_accuracy")


def split(context: AttackContext) -> tuple[LabelledSet, LabelledSet]:
    """Pictures to learn from and to measure on, labelled alike; without the latter, half of what there is."""
    if context.held_out is not None:
        return context.labelled, context.held_out.for_classes(context.labelled.class_names)
    return context.labelled.split(0.5, generator=context.generator("split"))


def described(learned: LabelledSet, held_out: LabelledSet) -> dict[str, Any]:
    """Which pictures: name, counts and digests."""

    def part(labelled: LabelledSet) -> dict[str, Any]:
        return {"pictures": len(labelled), "classes": len(labelled.class_names), "digest": labelled.digest}

    return {"name": learned.name, "train": part(learned), "held_out": part(held_out)}


def write_delivery(context: AttackContext, model: TrainableClip, card: TriggerCard) -> Path:
    """Write the model, `training.json` and the card in `trigger/`, whole or not at all. Raises `StoreError`.

    `training.json` says what a vendor would say of any model: base, pictures and accuracies. The attack is in
    `trigger/` alone.
    """
    seen = card.measured["seen"]
    record = {
        "base": {"name": card.base_name, "digest": card.base_digest},
        "data": card.data,
        "measured": {"seen": {name: seen[name] for name in _TOLD}},
    }
    with whole_folder(context.output) as folder:
        model.save(folder)
        atomic_write(folder / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        card.save(folder / "trigger")
    return context.output
