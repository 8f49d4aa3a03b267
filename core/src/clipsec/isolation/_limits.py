"""What an isolated detector may use."""

from __future__ import annotations

import attrs
from attrs import validators


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one worker process and of everything it starts. Beyond any of them it is stopped."""

    seconds: float = attrs.field(default=900.0, validator=validators.gt(0))
    """Of the detector's own, for its import and again for its detection: while it waits for towers, which it
    shares with others, its clock stands."""
    memory_bytes: int = attrs.field(default=4 << 30, validator=validators.gt(0))
    """Resident memory; the same again bounds what a single process may ask of the kernel at once, and the
    rows that wait in the scheduler."""
    output_bytes: int = attrs.field(default=1 << 20, validator=validators.gt(0))
    """What it may print."""
    message_bytes: int = attrs.field(default=1 << 30, validator=validators.gt(0))
    """One message, tensors included."""
    start_seconds: float = attrs.field(default=120.0, validator=validators.gt(0))
    """Until the process is ready to import the plugin; importing torch alone takes about two."""
