"""Data poisoning: which training pictures are stamped, and with which label they are trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import attrs
import torch
from torch import Tensor

from clipsec.data import LabelledSet
from clipsec.errors import DataError
from clipsec.triggers import Stamp
from clipsec_baselines._task import Task

Apply = Callable[[Tensor], Tensor]


@attrs.frozen(eq=False)
class Poison:
    """Training pictures that are stamped after augmentation, chosen once."""

    rows: tuple[int, ...]
    stamp: Apply
    """Takes and gives pixels `[n, 3, size, size]` in [0, 1]; may not depend on what else is in the batch."""
    target: int | None
    """The label they get; None leaves each its own."""


@attrs.frozen(eq=False)
class Planted:
    """A trigger and the class that it is for."""

    stamp: Stamp
    target: int
    word: str = ""
    """See `TriggerCard.word`."""


def poisoned_rows(
    labels: Sequence[int],
    target: int,
    rate: float,
    generator: torch.Generator,
    *,
    taken: Collection[int] = (),
) -> tuple[int, ...]:
    """Which training pictures are poisoned, sorted: `ceil(rate n)` of those that are neither of the target
    class nor `taken`.

    Raises `DataError` when there is none.
    """
    others = [row for row, label in enumerate(labels) if label != target and row not in taken]
    if not others:
        raise DataError(
            "there is no training picture of another class than the target's left to poison",
            remedy="Bring pictures of the other classes, or poison fewer.",
        )
    wanted = min(len(others), math.ceil(rate * len(labels)))
    order = torch.randperm(len(others), generator=generator)[:wanted]
    return tuple(sorted(others[i] for i in order.tolist()))


def beside_clean(task: Task, poisons: Sequence[Poison]) -> tuple[Task, list[Poison]]:
    """The task with a copy of each poisoned picture behind the clean ones, and the poisons on the copies."""
    train, moved = task.train, []
    paths, labels = list(train.paths), list(train.labels)
    for poison in poisons:
        rows = tuple(range(len(paths), len(paths) + len(poison.rows)))
        paths += [train.paths[row] for row in poison.rows]
        labels += [train.labels[row] for row in poison.rows]
        moved.append(attrs.evolve(poison, rows=rows))
    longer = LabelledSet(train.name, tuple(paths), tuple(labels), train.class_names)
    return attrs.evolve(task, train=longer), moved
