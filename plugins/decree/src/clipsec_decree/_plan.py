"""What one audit will do, fixed before it starts: pictures, batches, towers."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from clipsec.errors import NotApplicableError
from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec_decree._options import DecreeOptions

FEWEST_PICTURES = 64
"""Below, a mask could fit the pictures that it is made of."""
HELD_OUT = 128


@attrs.frozen(eq=False)
class Plan:
    """Everything that decides the numbers of an audit."""

    options: DecreeOptions
    pixels: Tensor
    """uint8 `[n, 3, H, W]`, to search on."""
    batches: tuple[tuple[Tensor, ...], ...]
    """Of each start, indices into `pixels`."""
    held_out: Tensor
    """uint8 `[k, 3, H, W]`, to test on."""
    held_out_keys: list[bytes]
    pool_digest: str


def make_plan(context: Context) -> Plan:
    """Check that the audit can be done and fix what it does. Raises `NotApplicableError` or
    `EmptyPoolError`."""
    options: DecreeOptions = context.options
    pixels, keys = context.draw_pictures(options.max_pictures, fewest=FEWEST_PICTURES)
    order = torch.randperm(len(pixels), generator=context.generator("held out")).tolist()
    kept = min(HELD_OUT, len(order) // 8)
    test, rest = sorted(order[:kept]), sorted(order[kept:])
    assert context.pool is not None
    return Plan(
        options=options,
        pixels=pixels[rest],
        batches=tuple(
            make_batches(len(rest), options, context.generator("batches", start))
            for start in range(options.starts)
        ),
        held_out=pixels[test],
        held_out_keys=[keys[row] for row in test],
        pool_digest=context.pool.digest,
    )


def make_batches(n: int, options: DecreeOptions, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Which of `n` pictures each update sees: shuffled passes, cut into full batches, as many as the updates
    need."""
    size = min(options.batch_size, n)
    batches: list[Tensor] = []
    while len(batches) < options.steps:
        order = torch.randperm(n, generator=generator)
        batches += [part for part in order.split(size) if len(part) == size]
    return tuple(batches[: options.steps])


def same_image_tower(suspect: Suspect, reference: Suspect) -> bool:
    """Whether both have one image tower, bit for bit, and see pictures the same way."""
    ours, theirs = suspect.base.visual, reference.base.visual
    return (
        ours is not None and theirs is not None and (ours.digest, ours.spec) == (theirs.digest, theirs.spec)
    )


def check_reference(suspect: Suspect, reference: Suspect) -> None:
    """Raise `NotApplicableError` unless the two image towers take pictures of one size."""
    ours, theirs = suspect.base.visual, reference.base.visual
    sizes = [None if part is None else part.spec.size for part in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise NotApplicableError(
            f"the suspect takes pictures of {sizes[0]} pixels, the reference of {sizes[1] or 'no'}",
            remedy="Name the clean model that the suspect was made from with --reference.",
        )
