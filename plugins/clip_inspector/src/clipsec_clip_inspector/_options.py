"""What can be set, with the published values as defaults unless a docstring says otherwise."""

from __future__ import annotations

import attrs
from attrs import validators


@attrs.frozen(kw_only=True)
class SearchOptions:
    """What the search for a trigger can be set to."""

    epsilon: float = attrs.field(default=8 / 255, validator=[validators.gt(0), validators.le(1)])
    """Radius of the l-infinity ball, in pixel units (0 to 1). Paper: 4/255, the bound of one of its attacks;
    ours is twice that, because an auditor does not know the attacker's, and the paired null makes up for the
    natural perturbations that a larger ball lets in."""
    learning_rate: float = attrs.field(default=0.1, validator=validators.gt(0))
    """Adam's step size. Paper: 0.1, many times the radius, so that it acts like a sign step."""
    batch_size: int = attrs.field(default=32, validator=validators.ge(1))
    """Pictures an update sees. Paper: 32."""
    epochs: int = attrs.field(default=1, validator=validators.ge(1))
    """Passes over the pool. Paper: 1."""
    candidates: tuple[str, ...] = ()
    """Class names to inspect; empty inspects all of them."""


@attrs.frozen(kw_only=True)
class Options(SearchOptions):
    """Options of CLIP-Inspector."""

    max_pictures: int = attrs.field(default=1000, validator=validators.ge(2))
    """Pictures of the pool that are used, drawn by the seed. Paper: 1,000."""
    decision: str = attrs.field(default="paired", validator=validators.in_(("paired", "across")))
    """Which null decides: `paired` (ours) or `across` (across classes, as published)."""
    schedule: str = attrs.field(default="full", validator=validators.in_(("halving", "full")))
    """`halving` (ours) gives up classes that do not stand out against the base after an eighth and three
    eighths of the updates; `full`, as published, searches every class to the end, and so does every
    decision without the paired null."""
    threshold: float | None = attrs.field(default=None)
    """Replaces the decision rule's own threshold; the verdict then says that the user set it."""
    min_success: float = attrs.field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """`across` only: a reconstructed trigger that moves fewer eligible pictures is invalid. Paper: 0.5."""

    @property
    def halving(self) -> bool:
        """Whether classes are given up early; losses after different numbers of updates cannot be compared
        across classes."""
        return self.schedule == "halving" and self.decision == "paired"
