"""Which cases there are. Everything here depends on the seed, the data and the trigger, never on a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipsec.data import LabelledSet
from clipsec.protocols import CaptionTrigger, Context, Trigger
from clipsec_dife._facts import too_few


def target_of(context: Context) -> int:
    """The target class's position among the class names of the model under test."""
    return context.suspect.class_names.index(trigger_of(context).target_name)


def trigger_of(context: Context) -> Trigger | CaptionTrigger:
    """The trigger that the cases are about. Raises `NotApplicableError` when there is none."""
    if context.trigger is None:
        raise too_few("there is no trigger")
    return context.trigger


def held_out_of(context: Context) -> LabelledSet:
    """Labelled pictures to measure on. Raises `NotApplicableError` when there are none."""
    if context.held_out is None or not len(context.held_out):
        raise too_few("there are no held-out pictures")
    return context.held_out


def bank_of(context: Context) -> LabelledSet:
    """Clean labelled pictures that a downstream user has. Raises `NotApplicableError` when there are none."""
    if context.labelled is None or not len(context.labelled):
        raise too_few("there are no labelled pictures beside the held-out ones")
    return context.labelled


def draw(context: Context, rows: Sequence[int], most: int, *purpose: object) -> list[int]:
    """At most `most` of the rows, by the seed and the purpose, in ascending order."""
    if len(rows) <= most:
        return list(rows)
    order = torch.randperm(len(rows), generator=context.generator("draw", *purpose))[:most]
    return sorted(rows[i] for i in order.tolist())


def shuffled(context: Context, rows: Sequence[int], *purpose: object) -> list[int]:
    """All of the rows in an order drawn by the seed and the purpose."""
    order = torch.randperm(len(rows), generator=context.generator("shuffle", *purpose))
    return [rows[i] for i in order.tolist()]


def of_class(labels: Sequence[int], label: int) -> list[int]:
    """Rows with this label."""
    return [row for row, other in enumerate(labels) if other == label]


def of_others(context: Context, target: int, *purpose: object) -> list[int]:
    """Rows of held-out pictures of other classes than the target, at most `options.cases`.

    Target-class pictures are always left out: counted among the cases they put the baseline at their share
    (the paper's 0.097 on CIFAR-10).
    """
    labels = held_out_of(context).labels
    rows = [row for row, label in enumerate(labels) if label != target]
    if not rows:
        raise too_few("no held-out picture is of another class than the target")
    return draw(context, rows, context.options.cases, *purpose)


def sources(context: Context, target: int) -> list[int]:
    """The classes whose texts a text trigger works on: the card's, those that it renames, else all but the
    target."""
    names = context.suspect.class_names
    if isinstance(context.trigger, CaptionTrigger) and context.trigger.text.names:
        renamed = {_plain(name) for name in context.trigger.text.names}
        found = [label for label, name in enumerate(names) if _plain(name) in renamed and label != target]
        if not found:
            raise too_few("the trigger renames none of the model's classes")
        return found
    named = getattr(context.trigger, "source_name", "")
    if named:
        if named not in names or names.index(named) == target:
            raise too_few(f"the source class {named!r} is none of the model's classes, or the target")
        return [names.index(named)]
    return [label for label in range(len(names)) if label != target]


def renamed_to(context: Context) -> int | None:
    """The class that a trigger makes texts of other classes be about; None where it does no such thing."""
    if isinstance(context.trigger, CaptionTrigger) and context.trigger.text.names:
        plain = [_plain(name) for name in context.suspect.class_names]
        if (text := _plain(context.trigger.text.text)) in plain:
            return plain.index(text)
    return None


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
