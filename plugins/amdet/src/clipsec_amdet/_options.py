"""What can be set, with the published values as defaults unless a docstring says otherwise."""

from __future__ import annotations

import attrs
from attrs import validators


@attrs.frozen(kw_only=True)
class Options:
    """Options of AMDET."""

    starts: int = attrs.field(default=3, validator=validators.ge(1))
    """Random starts; any that passes all tests is a finding. Code: 1; three fill a batch."""
    steps: int = attrs.field(default=640, validator=validators.ge(1))
    """Most updates of a start. Code: 640."""
    stops: tuple[int, ...] = (160, 320)
    """Updates after which a start ends early if its mean loss of the last 20 is below `stop_loss`. The
    code tests at every second update until a test passes; here (ours) each start decides once."""
    stop_loss: float = -0.85
    """Code: -0.85, of a running mean."""
    batch_size: int = attrs.field(default=10, validator=validators.ge(1))
    """Prompts an update sees. Code: 10."""
    learning_rate: float = attrs.field(default=0.08, validator=validators.gt(0))
    """Of Adam. Code: 0.08, weight decay 1e-5."""
    weight: float = attrs.field(default=0.1, validator=validators.ge(0))
    """Of the terms that move away from the clean features and from the reference. Code: 0.1."""
    vectors: int = attrs.field(default=1, validator=validators.ge(1))
    """Vectors that are inserted. Code: 1."""
    prompts: int = attrs.field(default=4000, validator=validators.ge(20))
    """Captions that are used, drawn by the seed; a fifth is kept for the tests. Code: 4,000."""
    positions: str = attrs.field(default="all", validator=validators.in_(("all", "text", "end")))
    """Which tokens count: `all`, padding included, as published; `text` (ours, causal towers only) leaves
    padding out and cuts it off, which is exact and faster; `end` (ours) is the one token that the feature
    is read at, which must agree between prompts instead of within one: for targets planted in the feature
    alone."""
    directions: int = attrs.field(default=4, validator=validators.ge(1))
    """Landscapes that are averaged, each with a prompt and a random direction of its own. Code: 1."""
    points: int = attrs.field(default=50, validator=validators.ge(3))
    """Points along each side of a landscape. Code: 50."""
    reach: float = attrs.field(default=10.0, validator=validators.gt(0))
    """How far a landscape goes to each side. Code: 10."""
    paired: bool = False
    """Ours: instead of the published tests, how much more the vectors make of the suspect's prompts one than
    of the reference's. The search lowers the reference's own assimilation in place of the two terms that move
    away, the vectors stay no longer than `limit`, and each start is decided by the difference."""
    limit: float = attrs.field(default=2.0, validator=validators.gt(0))
    """With `paired`, the greatest length of a vector, in lengths of the suspect's longest token embedding. A
    vector far off what tokens can be collapses any tower."""
    gap: float | None = None
    """With `paired`, replaces the family's threshold of the difference; the verdict then says so."""
    same: float | None = None
    """Replaces the family's threshold for the likeness of prompts to the first; the verdict then says so."""
    different: float | None = None
    """Replaces the family's threshold for the likeness to the reference; the verdict then says so."""
