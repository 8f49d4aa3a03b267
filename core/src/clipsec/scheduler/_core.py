"""What all runs of a scheduler share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from clipsec.errors import OutOfMemoryError
from clipsec.scheduler._batch import BatchKey, SafeBatch
from clipsec.scheduler._cache import FeatureCache
from clipsec.scheduler._canary import Canaries
from clipsec.scheduler._counts import Session
from clipsec.scheduler._events import Event, OutOfMemory
from clipsec.scheduler._memory import (
    MemoryMeter,
    cuda_meter,
    is_out_of_memory,
    probe_micro_batch,
    release_memory,
)
from clipsec.scheduler._physical import Physical, attempt
from clipsec.scheduler._requests import Tower
from clipsec.scheduler._tape import OpenGraphs


class Core:
    """Micro-batches, cache, open graphs and books: shared by nested and successive runs."""

    def __init__(
        self,
        safe: SafeBatch,
        cache: FeatureCache,
        graphs: OpenGraphs,
        on_event: Callable[[Event], None] | None,
        canaries: Canaries | None = None,
        meter: Callable[[torch.device], MemoryMeter | None] = cuda_meter,
    ) -> None:
        self.safe = safe
        self.cache = cache
        self.graphs = graphs
        self.total = Session("")
        self.physical = Physical(self.total, on_event, canaries)
        self.canaries = canaries
        self.on_event = on_event
        self.running: Session | None = None
        """The session whose plugin code is on the stack: a plain `encode` there is on its bill."""
        self.meter = meter
        self._sessions: dict[str, Session] = {}

    def session(self, name: str) -> Session:
        """The books of a session, opened when first asked for."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session(name)
        return session

    def micro_batch(self, key: BatchKey, run: Callable[[int], object]) -> int:
        """The physical batch for a key. If nobody has said and the device has a meter, it is measured:
        `run(n)` is called with a few rows, and what was found holds for the run and is remembered."""
        if self.safe.undecided(key):
            meter = self.meter(key.device)
            if meter is not None:
                batches_open = 2 if key.op == "grad" else 1
                tried = attempt(partial(probe_micro_batch, run, meter, batches_open=batches_open))
                if tried.error is None:
                    self.safe.settle(key, tried.get())
                elif is_out_of_memory(tried.error):
                    self.safe.settle(key, 1)
                # Any other error is the tower's or a plugin's, and will be met, and blamed, in the call
                # itself.
        return self.safe.get(key)

    def tell(self, event: Callable[..., Event], *facts: Any) -> None:
        """Build and send an event, if anybody listens."""
        if self.on_event is not None:
            self.on_event(event(*facts))

    def make_room(self, tower: Tower, key: BatchKey, sessions: set[Session]) -> bool:
        """After an out of memory: free something so that the call can be repeated; False if nothing is left.

        Graphs that are kept go first: they are a convenience, and the micro-batch stays what it is.
        """
        if self.graphs.drop_all():
            release_memory(tower.device)
            return True
        smaller = self.safe.shrink(key)
        if smaller is None:
            return False
        release_memory(tower.device)
        self.total.degraded += 1
        for session in sessions:
            session.degraded += 1
        self.tell(OutOfMemory, tower.label, key.op, smaller)
        return True


def too_little_memory(tower: Tower, cause: Exception) -> OutOfMemoryError:
    """The error for a problem of which not even one row fits."""
    error = OutOfMemoryError(
        f"not even one row fits into memory for the tower {tower.label!r} on {tower.device}",
        remedy="Free memory on the device, use a smaller model or dtype, or run on the CPU.",
    )
    error.__cause__ = cause
    return error
