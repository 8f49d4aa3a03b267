"""What a session has cost."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Counts:
    """What a session has cost so far. Rows are rows of problems; padding is counted apart."""

    forward_rows: int = 0
    """Rows really computed by a tower on request, with or without a gradient."""
    recomputed_rows: int = 0
    """Rows computed once more because their graph was not kept until the backward pass."""
    backward_rows: int = 0
    """Rows through which a gradient was pulled back."""
    cached_rows: int = 0
    """Rows answered without computing: from the cache, or because somebody wanted the same row."""
    padded_rows: int = 0
    """Rows computed only to fill a fixed physical batch, in calls this session was the first in."""
    tower_calls: int = 0
    """Physical calls (forward, recompute or backward) with at least one row of this session."""
    seconds: float = 0.0
    """Time in towers, shared among sessions by rows, and time of exclusive use."""
    exclusive_seconds: float = 0.0
    """The part of `seconds` spent in `Scheduler.exclusive`."""
    micro_batches: Mapping[str, int] = attrs.field(factory=dict)
    """Physical batch by tower label and op, e.g. `{"image ViT-B-32 bfloat16 grad": 32}`."""
    degraded: int = 0
    """How often a micro-batch was halved under this session's rows. Not 0: bit-equality with an undisturbed
    run is not promised, only equality to rounding."""
    peak_memory_bytes: int = 0
    """Largest memory seen during a call: allocated on the CUDA device, else resident in this process."""


@attrs.define(eq=False)
class Session:
    """The running counters of one session, and its share of the device."""

    name: str
    forward_rows: int = 0
    recomputed_rows: int = 0
    backward_rows: int = 0
    cached_rows: int = 0
    padded_rows: int = 0
    tower_calls: int = 0
    seconds: float = 0.0
    exclusive_seconds: float = 0.0
    micro_batches: dict[str, int] = attrs.field(factory=dict)
    degraded: int = 0
    peak_memory_bytes: int = 0

    def snapshot(self) -> Counts:
        """A frozen copy of the counters."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(Counts)}
        return Counts(**values | {"micro_batches": dict(self.micro_batches)})
