"""The sanity gate of a run: what it is shown, and whose labelled pictures are the zero-shot floor."""

from __future__ import annotations

import attrs
import torch

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.models import ZERO_SHOT_TEMPLATE, Suspect, sanity_gate
from clipsec.results import GateResult
from clipsec.runner._machine import shipped_labelled
from clipsec_registry import Registry

POOL_PICTURES = 8
"""Pictures of the pool that the gate sees beside its own synthetic ones."""
FLOOR_PICTURES = 64
"""Most labelled pictures that the zero-shot floor is measured on: a few dozen forwards."""
_CHECK = "zero-shot"


def gate_of(
    suspect: Suspect, pool: ImagePool | None, labelled: LabelledSet | None, registry: Registry
) -> GateResult:
    """The sanity gate with pictures of the pool and a zero-shot floor.

    The floor is measured on the user's labelled pictures if they show two classes or more (a model of a
    domain of its own need not know everyday things), else on those that an installed plugin ships. It needs
    both towers; what kept it from being measured stands in `checks`.
    """
    visual, text = suspect.base.visual, suspect.base.text
    pictures = None
    if pool is not None and visual is not None:
        pictures = to_unit(pool.pixels(visual.spec)[:POOL_PICTURES])
    if visual is None or text is None:
        return sanity_gate(suspect, pictures=pictures)
    whose = "--labelled"
    if labelled is None or len(set(labelled.class_names)) < 2:
        shipped = shipped_labelled(registry)
        if shipped is None:
            gate = sanity_gate(suspect, pictures=pictures)
            told = "not measured: no usable plugin ships labelled pictures, and none were given"
            return attrs.evolve(gate, checks={**gate.checks, _CHECK: told})
        whose, labelled = shipped[0], LabelledSet.from_folder(shipped[1])
    few = few_pictures(labelled)
    pixels = to_unit(few.pixels(visual.spec))
    texts = [ZERO_SHOT_TEMPLATE.format(name) for name in _names(few)]
    gate = sanity_gate(suspect, pictures=pictures, labelled=(pixels, texts))
    told = f"{gate.checks[_CHECK]} (pictures of {whose})"
    gate = attrs.evolve(gate, checks={**gate.checks, _CHECK: told})
    if told.startswith("failed") and whose != "--labelled":
        hint = (
            "a sound model that was made for another domain needs labelled pictures of it: --labelled FOLDER"
        )
        gate = attrs.evolve(gate, reason=f"{gate.reason}; {hint}")
    return gate


def few_pictures(labelled: LabelledSet) -> LabelledSet:
    """At most `FLOOR_PICTURES` pictures, over as many classes as possible; the same every time."""
    classes = len(labelled.class_names)
    if classes > FLOOR_PICTURES:
        spread = torch.linspace(0, classes - 1, FLOOR_PICTURES).round().int().tolist()
        labelled, classes = labelled.choose(spread), FLOOR_PICTURES
    if len(labelled) <= FLOOR_PICTURES:
        return labelled
    return labelled.shots(FLOOR_PICTURES // classes, generator=torch.Generator().manual_seed(0))


def _names(labelled: LabelledSet) -> list[str]:
    return [labelled.class_names[label] for label in labelled.labels]
