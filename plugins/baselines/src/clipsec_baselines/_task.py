"""From a labelled set to what a prompt learner is trained and measured on."""

from __future__ import annotations

import math

import attrs
import torch

from clipsec.data import LabelledSet
from clipsec.errors import DataError
from clipsec.protocols import derived_seed
from clipsec_baselines._options import LearnerOptions


@attrs.frozen(eq=False)
class Task:
    """A few-shot task. `seen` and `train` share class names and labels."""

    train: LabelledSet
    """At most `shots` pictures of each Seen class."""
    seen: LabelledSet
    """Held-out pictures of the Seen classes."""
    unseen: LabelledSet | None
    """Held-out pictures of the classes that training leaves out, labelled from 0; None without a split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The Seen classes, in label order: those a delivery names."""
        return self.train.class_names


def seen_unseen(n: int) -> tuple[list[int], list[int]]:
    """CoOp's rule for base and new classes: of the sorted labels, the first ceil(n / 2), and the rest."""
    half = math.ceil(n / 2)
    return list(range(half)), list(range(half, n))


def make_task(
    labelled: LabelledSet, held_out: LabelledSet | None, options: LearnerOptions, seed: int
) -> Task:
    """Choose classes, split them, draw the shots.

    Without `held_out`, pictures of `labelled` that were not drawn are held out. Raises `DataError` when fewer
    than two classes remain, when the two sets name different classes, or when a part is empty.
    """
    if held_out is not None and held_out.class_names != labelled.class_names:
        raise DataError(
            f"{labelled.name} has {len(labelled.class_names)} classes to learn, its held-out part "
            f"{len(held_out.class_names)} others",
            remedy="Give both parts the same class folders.",
        )
    total = len(labelled.class_names)
    if options.classes is not None and options.classes > total:
        raise DataError(
            f"{labelled.name} has {total} classes, {options.classes} were asked for",
            remedy="Ask for fewer classes.",
        )
    used = total if options.classes is None else options.classes
    first, rest = seen_unseen(used) if options.split == "seen" else (list(range(used)), [])
    if len(first) < 2:
        raise DataError(
            f"{labelled.name} leaves {len(first)} class to learn; a prompt learner needs at least two",
            remedy="Bring more classes, or train on all of them with split = all.",
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, "shots"))
    train = labelled.choose(first).shots(options.shots, generator=generator)
    test = held_out if held_out is not None else _without(labelled, train)
    task = Task(train, test.choose(first), test.choose(rest) if rest else None)
    _check_no_class_is_empty(task.train, "training")
    _check_no_class_is_empty(task.seen, "held-out")
    if task.unseen is not None:
        _check_no_class_is_empty(task.unseen, "held-out Unseen")
    return task


def _without(labelled: LabelledSet, drawn: LabelledSet) -> LabelledSet:
    taken = set(drawn.paths)
    kept = [i for i, path in enumerate(labelled.paths) if path not in taken]
    return LabelledSet(
        labelled.name,
        tuple(labelled.paths[i] for i in kept),
        tuple(labelled.labels[i] for i in kept),
        labelled.class_names,
    )


def _check_no_class_is_empty(part: LabelledSet, what: str) -> None:
    missing = [name for label, name in enumerate(part.class_names) if label not in set(part.labels)]
    if missing:
        raise DataError(
            f"the {what} part of {part.name} has no picture of {missing[0]!r}"
            + (f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""),
            remedy="Bring more pictures, name a held-out folder, or use fewer shots.",
        )
