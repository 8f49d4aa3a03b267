"""What one audit will do, fixed before it starts: classes, pictures, rounds and towers."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from clipsec.protocols import Context
from clipsec.scheduler import Tower
from clipsec_baselines.detectors._options import InversionOptions


@attrs.frozen(eq=False)
class Plan:
    """Everything that decides the numbers of an audit, but for the method."""

    class_names: tuple[str, ...]
    candidates: tuple[int, ...]
    pixels: Tensor
    """uint8 `[n, 3, H, W]`, in the pool's order."""
    row_keys: list[bytes]
    rounds: tuple[tuple[Tensor, ...], ...]
    """Batches of indices into `pixels`, as the schedule counts them."""
    search_tower: Tower
    search_head: Tower
    tower: Tower
    head: Tower

    @property
    def steps(self) -> int:
        """Batches of all classes together."""
        return len(self.candidates) * sum(map(len, self.rounds))


def make_plan(context: Context) -> Plan:
    """Check that the audit can be done and fix what it does.

    Raises `NotApplicableError`, `EmptyPoolError` or `UsageError`.
    """
    options: InversionOptions = context.options
    suspect = context.suspect
    candidates = context.candidates(options.candidates)
    pixels, row_keys = context.draw_pictures(options.max_pictures, fewest=2)
    return Plan(
        class_names=suspect.class_names,
        candidates=candidates,
        pixels=pixels,
        row_keys=row_keys,
        rounds=make_rounds(len(pixels), options, context.generator("batches")),
        search_tower=suspect.image_tower(context.search_dtype),
        search_head=suspect.head(context.search_dtype),
        tower=suspect.image_tower(context.decision_dtype),
        head=suspect.head(context.decision_dtype),
    )


def make_rounds(
    n: int, options: InversionOptions, generator: torch.Generator
) -> tuple[tuple[Tensor, ...], ...]:
    """One permutation of the pictures an epoch, cut into full batches (one smaller batch if none is full).

    A round is an epoch under `published`, a batch under `proper`.
    """
    size = min(options.batch_size, n)
    epochs = [
        tuple(torch.randperm(n, generator=generator)[: n // size * size].split(size))
        for _ in range(options.epochs)
    ]
    return tuple(epochs) if options.schedule == "published" else tuple((b,) for e in epochs for b in e)
