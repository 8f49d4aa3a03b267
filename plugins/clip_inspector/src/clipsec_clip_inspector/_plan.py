"""What one audit will do, fixed before it starts: classes, pictures, batches, heads and content keys."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.scheduler import Tower
from clipsec.store import content_key
from clipsec_clip_inspector._halving import Rung, rungs
from clipsec_clip_inspector._options import Options, SearchOptions
from clipsec_clip_inspector._plus_options import PlusOptions

INVERSION_VERSION = 2
"""Raised when the search changes its results, so that stored nulls of older versions are not reused."""


@attrs.frozen(eq=False)
class Side:
    """A tower and head to invert on: the suspect's, or its null's."""

    search_tower: Tower
    search_head: Tower
    tower: Tower
    head: Tower


@attrs.frozen(eq=False)
class Plan:
    """Everything that decides the numbers of an audit."""

    options: Options | PlusOptions
    class_names: tuple[str, ...]
    candidates: tuple[int, ...]
    pixels: Tensor
    """uint8 `[n, 3, H, W]`, in the pool's order."""
    row_keys: list[bytes]
    batches: tuple[Tensor, ...]
    suspect: Side
    null: Side | None
    null_key: str
    """Content key of the null's inversions; suspects on one base, with one label set and pool, share it."""

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Where searches are compared and some given up; none when every class is searched to the end."""
        if self.null is None or not self.options.halving:
            return ()
        return rungs(len(self.candidates), len(self.batches))

    @property
    def steps(self) -> int:
        """Updates of all inversions together, as planned."""
        sides = 1 if self.null is None else 2
        ends = [*self.rungs, Rung(len(self.batches), 0)]
        alive = [len(self.candidates), *(rung.keep for rung in self.rungs)]
        starts = [0, *(rung.steps for rung in self.rungs)]
        return sides * sum(n * (end.steps - start) for n, end, start in zip(alive, ends, starts, strict=True))


def make_plan(context: Context) -> Plan:
    """Check that the audit can be done and fix what it does.

    Raises `NotApplicableError`, `EmptyPoolError` or `UsageError`.
    """
    options: Options | PlusOptions = context.options
    suspect = context.suspect
    candidates = context.candidates(options.candidates)
    pixels, row_keys = context.draw_pictures(options.max_pictures, fewest=2)
    null = null_side(context)
    return Plan(
        options=options,
        class_names=suspect.class_names,
        candidates=candidates,
        pixels=pixels,
        row_keys=row_keys,
        batches=shuffled_batches(len(pixels), options, context.generator("batches")),
        suspect=side(context, suspect, delivered=True),
        null=null,
        null_key=null_key(null, suspect.class_names, row_keys, context),
    )


def side(context: Context, suspect: Suspect, *, delivered: bool) -> Side:
    """The towers to invert `suspect` on: search in one dtype, decide in the other."""
    head = suspect.head if delivered else suspect.zero_shot_head
    return Side(
        suspect.image_tower(context.search_dtype),
        head(context.search_dtype),
        suspect.image_tower(context.decision_dtype),
        head(context.decision_dtype),
    )


def null_side(context: Context) -> Side | None:
    """The paired null: the public base answering zero-shot, or a clean reference when one is given.

    A plain CLIP model without a reference has none: its own head is what would be compared with itself.
    """
    if context.reference is not None:
        reference = context.reference
        if not reference.class_names:
            reference.class_names = context.suspect.class_names
        return side(context, reference, delivered=True)
    if context.suspect.prompts is not None:
        return side(context, context.suspect, delivered=False)
    return None


def null_key(
    null: Side | None, class_names: Sequence[str], row_keys: Sequence[bytes], context: Context
) -> str:
    """Content key under which inversions of the null are shared between audits."""
    if null is None:
        return ""
    options: Options | PlusOptions = context.options
    return content_key(
        version=INVERSION_VERSION,
        towers=[null.search_tower.key, null.search_head.key, null.tower.key, null.head.key],
        class_names=list(class_names),
        pictures=[key.hex() for key in row_keys],
        epsilon=options.epsilon,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        epochs=options.epochs,
        seed=context.seed,
    )


def shuffled_batches(n: int, options: SearchOptions, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Batches of picture indices, one permutation an epoch, the short last batch kept."""
    epochs = [torch.randperm(n, generator=generator).split(options.batch_size) for _ in range(options.epochs)]
    return tuple(batch for epoch in epochs for batch in epoch)
