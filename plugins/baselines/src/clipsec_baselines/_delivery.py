"""Writing what was trained as a vendor would deliver it, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from clipsec.models import Suspect, save_prompts
from clipsec.store import atomic_write, whole_folder
from clipsec.triggers import TriggerCard
from clipsec_baselines._clean import Trained
from clipsec_baselines._options import LearnerOptions, published
from clipsec_baselines._task import Task

TRIGGER_FOLDER = "trigger"
_PARTS = ("seen", "unseen")


def write_delivery(
    folder: Path,
    base: Suspect,
    task: Task,
    options: LearnerOptions,
    seed: int,
    trained: Trained,
    measured: dict[str, Any],
    cards: Sequence[TriggerCard] = (),
) -> Path:
    """Write the prompts in the authors' layout, `training.json`, and the cards of an attack in `trigger/`,
    `trigger-2/` and so on.

    Everything is written beside `folder` and renamed into place. `training.json` is what a vendor would say
    of clean and poisoned deliveries alike; nothing of an attack stands outside of them. Raises
    `StoreError`.
    """
    options = published(options)
    with whole_folder(folder) as temporary:
        name = base.base_name or base.name
        save_prompts(temporary, trained.learner.state(), base=name, epoch=options.epochs or 0, clip=base.base)
        record = {
            "learner": {field.name: getattr(options, field.name) for field in attrs.fields(LearnerOptions)},
            "seed": seed,
            "base": {"name": name, "digest": base.base.digest},
            "data": describe_data(task),
            "measured": {
                part: {"accuracy": measured[part]["accuracy"]} for part in _PARTS if part in measured
            },
        }
        atomic_write(temporary / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        for number, card in enumerate(cards, 1):
            card.save(temporary / (TRIGGER_FOLDER if number == 1 else f"{TRIGGER_FOLDER}-{number}"))
    return folder


def describe_data(task: Task) -> dict[str, Any]:
    """Which pictures: names, counts and digests of the parts."""
    described: dict[str, Any] = {
        "name": task.train.name,
        "train": task.train.facts(),
        "seen": task.seen.facts(),
    }
    if task.unseen is not None:
        described["unseen"] = task.unseen.facts()
    return described
