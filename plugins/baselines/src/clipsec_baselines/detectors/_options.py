"""What can be set. Defaults are the authors' values; where the two schedules differ, a docstring says how."""

from __future__ import annotations

import attrs
from attrs import validators

SCHEDULES = ("proper", "published")


@attrs.frozen(kw_only=True)
class InversionOptions:
    """What both baselines share."""

    schedule: str = attrs.field(default="proper", validator=validators.in_(SCHEDULES))
    """`proper` counts patience in mini-batches and starts every class from the same even trigger;
    `published` counts it in epochs and starts at random, as the authors' code and CLIP-Inspector's
    comparison do. With five epochs the published cost hardly moves, so sizes are hardly regularised."""
    epochs: int = attrs.field(default=5, validator=validators.ge(1))
    """Passes over the pool, which is the whole budget: epochs x pictures rows of forward and backward for
    each class. CLIP-Inspector's comparison: 5."""
    batch_size: int = attrs.field(default=32, validator=validators.ge(1))
    """Pictures an update sees; an incomplete last batch is left out, as in the authors' code."""
    max_pictures: int = attrs.field(default=1000, validator=validators.ge(2))
    """Pictures of the pool that are used, drawn by the seed. CLIP-Inspector's comparison: 1,000."""
    learning_rate: float = attrs.field(default=0.1, validator=validators.gt(0))
    """Adam's step size, with betas 0.5 and 0.9. Authors: 0.1."""
    initial_cost: float = attrs.field(default=1e-3, validator=validators.gt(0))
    """First weight of the size in the loss. Authors: 1e-3."""
    tolerance: float = attrs.field(default=0.05, validator=[validators.ge(0), validators.le(1)])
    """How far the success of the final trigger, in fp32 on all pictures, may fall below
    `success_threshold`, which the search checks in bf16 on its batches. A class beyond it has no valid
    size."""
    threshold: float | None = attrs.field(default=None)
    """Replaces the anomaly index above which a class is flagged (k = 2); the verdict then says so."""
    candidates: tuple[str, ...] = ()
    """Class names to inspect; empty inspects all of them."""


@attrs.frozen(kw_only=True)
class NeuralCleanseOptions(InversionOptions):
    """Options of Neural Cleanse."""

    success_threshold: float = attrs.field(default=0.99, validator=[validators.gt(0), validators.le(1)])
    """Success from which a mask counts and the cost rises. Authors: 0.99."""
    patience: int = attrs.field(default=5, validator=validators.ge(1))
    """Successes (failures) in a row that raise (lower) the cost: epochs or mini-batches, by `schedule`.
    Authors: 5 in their example, 10 as the class's default."""
    multiplier: float = attrs.field(default=2.0, validator=validators.gt(1))
    """Raises the cost; its power 1.5 lowers it. Authors: 2 in their example, 1.5 as the class's default."""
    early_stop: bool = True
    """Stop when the cost has gone both ways and the best mask has not shrunk by 1% for 5 x patience."""


@attrs.frozen(kw_only=True)
class PixelBackdoorOptions(InversionOptions):
    """Options of Pixel-Backdoor."""

    success_threshold: float = attrs.field(default=0.9, validator=[validators.gt(0), validators.le(1)])
    """Success from which a pattern counts and the cost rises. Authors: 0.9."""
    patience: int = attrs.field(default=10, validator=validators.ge(1))
    """Successes (failures) in a row that raise (lower) the cost: epochs or mini-batches, by `schedule`.
    Authors: 10."""
    multiplier: float = attrs.field(default=1.5, validator=validators.gt(1))
    """Raises the cost; its power 1.5 lowers it. Authors: 1.5."""
