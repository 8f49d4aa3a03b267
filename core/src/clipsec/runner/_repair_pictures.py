"""Measuring a repair on labelled pictures: clean accuracy, and triggers on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import DataError, UsageError
from clipsec.models import ImageSpec, Suspect, prepare_zero_shot_head
from clipsec.protocols import Trigger, derived_seed
from clipsec.results import Rate
from clipsec.scheduler import Scheduler, Tower
from clipsec.stats import wilson

HELD_OUT_SHARE = 0.4
"""Of the labelled pictures, when no others are given to measure on: 35 without a single success are what it
takes to say that less than 10% is left."""


def measure_rates(
    scheduler: Scheduler,
    suspect: Suspect,
    labelled: LabelledSet,
    triggers: Sequence[Trigger],
    *,
    zero_shot: bool = False,
    images: Suspect | None = None,
) -> list[Rate]:
    """Clean accuracy, then for each trigger its success on pictures of other classes; all in float32.

    `zero_shot` measures the base's own answer instead of the delivered one; `images` has the image tower of
    a text tower that comes without one. A model without class names is asked for those of the pictures.
    Features come from the scheduler's cache where somebody has computed them.
    """
    seen = suspect if images is None else images
    tower, head = seen.image_tower(), head_of(suspect, labelled.class_names, zero_shot=zero_shot)
    pixels, labels = to_unit(labelled.pixels(spec_of(seen))), labelled.label_tensor()

    def answers(pictures: Tensor) -> Tensor:
        return scheduler.encode(head, scheduler.encode(tower, pictures)).argmax(dim=1)

    rates = [rate_of(answers(pixels) == labels)]
    for trigger in triggers:
        others = labels != trigger.target_index
        rates.append(rate_of(answers(trigger.apply(pixels[others])) == trigger.target_index))
    return rates


def head_of(suspect: Suspect, names: Sequence[str], *, zero_shot: bool = False) -> Tower:
    """What answers: the suspect's own head, or zero-shot over these names when it has none for them."""
    if suspect.prompts is None and tuple(suspect.class_names) != tuple(names):
        return prepare_zero_shot_head(suspect.base, names, torch.float32, suspect.device)
    return suspect.zero_shot_head() if zero_shot else suspect.head()


def rate_of(hits: Tensor) -> Rate:
    """The share of true values, with its 95% interval. Raises `DataError` when there are none."""
    successes, n = int(hits.sum()), len(hits)
    if n == 0:
        raise DataError(
            "there is nothing to measure a trigger on",
            remedy="Bring held-out pictures or captions that the trigger can be put into.",
        )
    return Rate(successes, n, wilson(successes, n))


def spec_of(suspect: Suspect) -> ImageSpec:
    """What pictures a model takes. Raises `UsageError` without an image tower."""
    visual = suspect.base.visual
    if visual is None:
        raise UsageError(
            f"{suspect.name} has no image tower, so nothing can be measured on pictures",
            remedy="Leave --labelled out, or name a clean model that has one with --reference.",
        )
    return visual.spec


def split_pictures(
    suspect: Suspect,
    labelled: LabelledSet | str | Path | None,
    held_out: LabelledSet | str | Path | None,
    seed: int,
) -> tuple[LabelledSet | None, LabelledSet | None]:
    """What the repair may see and what it is measured on, both in the suspect's order of classes."""
    if labelled is None:
        if held_out is not None:
            raise UsageError(
                "pictures to measure on are given, and none to learn from",
                remedy="Name labelled pictures with --labelled.",
            )
        return None, None
    train = _of_classes(suspect.class_names, labelled)
    if held_out is not None:
        return train, _of_classes(train.class_names, held_out)
    generator = torch.Generator().manual_seed(derived_seed(seed, "held out"))
    return train.split(HELD_OUT_SHARE, generator=generator)


def _of_classes(names: Sequence[str], labelled: LabelledSet | str | Path) -> LabelledSet:
    if isinstance(labelled, str | Path):
        labelled = LabelledSet.from_folder(labelled)
    ours = labelled.for_classes(names or labelled.class_names)
    if len(set(ours.labels)) < 2:
        raise DataError(
            f"{labelled.name} has pictures of {len(set(ours.labels))} of the model's classes",
            remedy=f"Bring pictures of at least two of: {', '.join(ours.class_names[:8])}"
            f"{', ...' if len(ours.class_names) > 8 else '.'}",
        )
    return ours


def check_labels(accuracy: Rate, classes: int) -> None:
    """Raise `DataError` when the model does no better than guessing."""
    if accuracy.interval.high <= 0.5 and accuracy.interval.low <= 1.5 / classes:
        raise DataError(
            f"the model names the class of only {accuracy.value:.1%} of the labelled pictures",
            remedy="Check that the labels are true, that the class folders carry the model's class names, "
            "and that the image tower belongs to this text tower.",
        )


def check_triggers(suspect: Suspect, names: Sequence[str], triggers: Sequence[Trigger]) -> None:
    """Raise `UsageError` for a trigger on pictures that is not about this model."""
    size = spec_of(suspect).size if triggers else None
    for trigger in triggers:
        if not 0 <= trigger.target_index < len(names) or names[trigger.target_index] != trigger.target_name:
            raise UsageError(
                f"the trigger of {trigger.origin or 'the card'} aims at {trigger.target_name!r}, which is "
                f"not class {trigger.target_index} of {suspect.name}",
                remedy="Give the card and the run that belong to this model.",
            )
        if trigger.size not in (None, size):
            raise UsageError(
                f"the trigger of {trigger.origin or 'the card'} is for pictures of {trigger.size} pixels, "
                f"{suspect.name} takes {size}",
                remedy="Give the card and the run that belong to this model.",
            )


def coverage(train: LabelledSet | None) -> tuple[str, ...]:
    """What a reader must know of the pictures that the repair saw."""
    if train is None:
        return ()
    missing = set(range(len(train.class_names))) - set(train.labels)
    if not missing:
        return ()
    return (f"the repair saw no picture of {len(missing)} of {len(train.class_names)} classes",)
