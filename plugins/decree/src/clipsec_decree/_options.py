"""What can be set, with the published values as defaults unless a docstring says otherwise."""

from __future__ import annotations

import attrs
from attrs import validators

RULES = ("published", "paired")


@attrs.frozen(kw_only=True)
class DecreeOptions:
    """Options of DECREE. Published: Feng et al., CVPR 2023, their settings for CLIP."""

    rule: str = attrs.field(default="published", validator=validators.in_(RULES))
    """`published` compares the mask's share of the picture (PL1) with a fixed number; `paired` (ours) with
    the clean reference's own."""
    threshold: float | None = attrs.field(default=None, validator=validators.optional(validators.gt(0)))
    """Replaces the threshold of the rule: a PL1 for `published` (0.1), for `paired` the ratio of the
    reference's PL1 to the suspect's. The verdict then says so."""
    starts: int = attrs.field(default=1, validator=validators.ge(1))
    """Random starts; the smallest mask counts. Published: 1."""
    steps: int = attrs.field(default=400, validator=validators.ge(1))
    """Most updates of a start. Published: at most 1,000 epochs, over pictures whose number in an epoch is not
    known here; one that ends while the mask still shrinks is not called clean."""
    batch_size: int = attrs.field(default=32, validator=validators.ge(2))
    """Pictures an update sees. Published: 32; 128 for small pictures."""
    max_pictures: int = attrs.field(default=1000, validator=validators.ge(4))
    """Pictures of the pool that are used, drawn by the seed; an eighth of them, at most 128, is kept for the
    test of what was found. Published: 10,000 of ImageNet."""
    learning_rates: tuple[float, ...] = (0.5, 0.1, 0.05)
    """Of Adam, with betas 0.5 and 0.9: at first, after 200 and after 500 updates. Published: these."""
    similarity: float = attrs.field(default=0.99, validator=[validators.gt(0), validators.lt(1)])
    """Mean cosine of stamped pictures from which a mask counts. Published: 0.99."""
    tolerance: float = attrs.field(default=0.02, validator=validators.ge(0))
    """How far that of held-out pictures, in fp32, may be below it (ours)."""
    weight: float = attrs.field(default=1e-3, validator=validators.gt(0))
    """First weight of the mask's size. Published: 1e-3."""
    lowest_weight: float = attrs.field(default=1e-7, validator=validators.gt(0))
    """Published: 1e-7; 1e-5 for small pictures."""
    factor: float = attrs.field(default=5.0, validator=validators.gt(1))
    """Raises and lowers the weight. Published: 5."""
    run: int = attrs.field(default=5, validator=validators.ge(1))
    """The weight changes after more than as many updates in a row on one side of `similarity`. Published:
    5."""
    patience: int = attrs.field(default=35, validator=validators.ge(1))
    """Updates without a smaller mask that end a search. Published: 35; 10 for small pictures."""
    least_gain: float = attrs.field(default=0.01, validator=[validators.ge(0), validators.lt(1)])
    """A mask is smaller when it is so by this share (ours, as Neural Cleanse's code has it)."""
