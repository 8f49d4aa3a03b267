"""What the attacker's trigger does to prompts that somebody learned anew on the same pictures, instead of
repairing the delivered ones."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from clipsec.bench import Bench
from clipsec.bench._plan import Model
from clipsec.data import to_unit
from clipsec.models import load_suspect
from clipsec.protocols import Trigger
from clipsec.runner import load_planted
from clipsec.stats import Proportion, proportion


@attrs.frozen
class Anew:
    """On held-out pictures."""

    accuracy: Proportion
    success: Proportion
    """Of the attacker's trigger, on pictures of other classes; of several, the most successful one."""


def learned_anew(bench: Bench, model: Model) -> Anew | None:
    """The clean model of the same data, learner and seed under the trigger of a poisoned one; None when one
    of the two is not built."""
    clean = next((one for one in bench.plan.models if one.clean and one.reference == model.reference), None)
    entries = [None if one is None else bench.model_entry(one) for one in (clean, model)]
    places = [bench.delivery(entry) for entry in entries if entry is not None and entry.done]
    if len(places) < 2:
        return None
    mine, theirs = places
    suspect = load_suspect(mine)
    held_out = bench.plan.datasets[model.dataset].parts[1]
    assert held_out is not None
    assert suspect.base.visual is not None
    seen = held_out.for_classes(suspect.class_names)
    pixels, labels = to_unit(seen.pixels(suspect.base.visual.spec)), seen.label_tensor()
    triggers = [trigger for trigger in load_planted(theirs) if isinstance(trigger, Trigger)]

    def said(rows: Tensor) -> Tensor:
        tower, head = suspect.image_tower(), suspect.head()
        with torch.no_grad():
            return torch.cat([head.fn(tower.fn(part)).argmax(dim=1) for part in rows.split(32)])

    rates = []
    for trigger in triggers:
        others = labels != trigger.target_index
        moved = said(trigger.apply(pixels[others])) == trigger.target_index
        rates.append(proportion(int(moved.sum()), len(moved)))
    right = said(pixels) == labels
    return Anew(proportion(int(right.sum()), len(right)), max(rates, key=lambda one: one.k / one.n))
