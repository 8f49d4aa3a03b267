"""Physical calls of towers: timed, counted, guarded, and tried without anything being lost."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar, cast

import attrs
import torch
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.scheduler._batch import BatchKey
from clipsec.scheduler._canary import Canaries
from clipsec.scheduler._counts import Session
from clipsec.scheduler._events import Event, StepDone
from clipsec.scheduler._memory import memory_in_use
from clipsec.scheduler._requests import Tower

T = TypeVar("T")


@attrs.frozen(eq=False)
class Attempt(Generic[T]):
    """A value, or the error that came instead. The error has let go of its frames and what they held."""

    value: T | None = None
    error: Exception | None = None

    def get(self) -> T:
        """The value, once it is known that there was no error."""
        return cast(T, self.value)


def attempt(call: Callable[[], T]) -> Attempt[T]:
    """Run a pure call, so that the caller can go on outside of the except block.

    There the traceback no longer pins the tensors that were too many (pytorch#18853).
    """
    try:
        return Attempt(call())
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))
        error.__traceback__ = error.__context__ = None
        error.add_note("Raised below the scheduler, in:\n" + frames)
        return Attempt(error=error)


class Physical:
    """Runs towers on physical batches and keeps the books."""

    def __init__(
        self, total: Session, on_event: Callable[[Event], None] | None, canaries: Canaries | None
    ) -> None:
        self._total = total
        self._on_event = on_event
        self._canaries = canaries

    def forward(
        self,
        tower: Tower,
        key: BatchKey,
        x: Tensor,
        aux: tuple[Tensor, ...],
        shares: Mapping[Session, int],
        op: str,
    ) -> Tensor:
        """`tower(x, *aux)` with a graph iff `x` requires a gradient; checked; `shares` are rows by
        session."""
        start = time.perf_counter()
        y = call_tower(tower, x, aux)
        if not isinstance(y, Tensor) or y.dim() < 1 or y.shape[0] != x.shape[0] or not y.is_floating_point():
            raise _tower_error(tower, f"returned {_describe(y)} for {x.shape[0]} rows")
        if x.requires_grad and not y.requires_grad:
            raise _tower_error(tower, "returned features that carry no gradient to its rows")
        if self._canaries is not None:
            self._canaries.remember(tower, x, aux, y)
        self._record(tower, key, len(x), shares, op, start)
        return y

    def vjp(
        self,
        tower: Tower,
        key: BatchKey,
        y: Tensor,
        x: Tensor,
        cotangent: Tensor,
        shares: Mapping[Session, int],
    ) -> Tensor:
        """The gradient of `x`, given that of `y`; frees the graph."""
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        self._record(tower, key, len(x), shares, "backward", start)
        return gradient

    def _record(
        self, tower: Tower, key: BatchKey, size: int, shares: Mapping[Session, int], op: str, start: float
    ) -> None:
        if tower.device.type == "cuda":
            # Not measured on CUDA: a call there takes tens of milliseconds, so what the wait costs is taken
            # to be little against knowing whose time it was.
            torch.cuda.synchronize(tower.device)
        seconds = time.perf_counter() - start
        rows = sum(shares.values())
        name = f"{tower.label} {key.op}"
        memory = memory_in_use(tower.device)
        first = next(iter(shares))
        for session, share in (*shares.items(), (self._total, rows)):
            if op == "backward":
                session.backward_rows += share
            elif op == "recompute":
                session.recomputed_rows += share
            else:
                session.forward_rows += share
            if session is first or session is self._total:
                session.padded_rows += size - rows
            session.tower_calls += 1
            session.seconds += seconds * share / rows
            session.micro_batches[name] = size
            session.peak_memory_bytes = max(session.peak_memory_bytes, memory)
        if self._on_event is not None:
            self._on_event(StepDone(tower.label, op, rows, size, seconds))


def call_tower(tower: Tower, x: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    """The bare call, with a graph iff `x` requires a gradient, and without autocast."""
    with torch.set_grad_enabled(x.requires_grad):
        if not torch.is_autocast_enabled(tower.device.type):
            return tower.fn(x, *aux)
        # Autocast would re-cast frozen weights at every call, and make rows depend on the caller's
        # surroundings.
        with torch.autocast(tower.device.type, enabled=False):
            return tower.fn(x, *aux)


def _tower_error(tower: Tower, what: str) -> ContractError:
    return ContractError(
        f"the tower {tower.label!r} {what}",
        remedy="A tower maps n rows to n rows of floating features, differentiably; fix its function.",
    )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
