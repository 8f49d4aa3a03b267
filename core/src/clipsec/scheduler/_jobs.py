"""Problems in progress: a job, the family it belongs to, the encodes it has called."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from clipsec.scheduler._batch import BatchKey, is_power_of_two
from clipsec.scheduler._counts import Session
from clipsec.scheduler._requests import Backward, Done, Encode, Gather, Problem, Tower

if TYPE_CHECKING:
    from clipsec.scheduler._tape import Tape


@attrs.define(eq=False)
class Job:
    """One live problem."""

    problem: Problem
    tag: Hashable
    session: Session
    priority: int
    order: int
    """Older problems first, so that a few are carried to their end rather than all kept half-way."""
    family: Family
    grad_enabled: bool = True
    """The grad mode at its last yield: `with torch.no_grad(): x = yield ...` must not leak to neighbours."""
    calls: list[Call] = attrs.field(factory=list)
    """Answered encodes with a gradient since the last Backward, oldest first."""
    stale: list[weakref.ref[Tensor]] = attrs.field(factory=list)
    """Features that an earlier Backward has used up, while the plugin keeps them alive."""
    call: Call | None = None
    pull: Pull | None = None
    children: Family | None = None
    rubbish: int = 0
    """Successive requests that broke the protocol."""
    ended: bool = False


@attrs.define(eq=False)
class Family:
    """Problems drawn lazily from one iterable: those of `as_completed`, or of one Gather."""

    source: Iterator[Any]
    max_live: int
    parent: Job | None
    live: dict[Job, None] = attrs.field(factory=dict)
    exhausted: bool = False
    drawn: int = 0
    out: deque[Done] = attrs.field(factory=deque)
    """Ended problems that the caller of `as_completed` has not taken yet."""
    results: dict[int, Done] = attrs.field(factory=dict)
    """Ended problems of a Gather, by the place of their input."""
    places: dict[Job, int] = attrs.field(factory=dict)
    on_done: Callable[[Done], None] | None = None

    @property
    def has_room(self) -> bool:
        """Whether another problem may be drawn. What the caller has not taken counts, so nothing piles up."""
        return not self.exhausted and len(self.live) + len(self.out) < self.max_live

    @property
    def finished(self) -> bool:
        return self.exhausted and not self.live


@attrs.define(eq=False)
class Call:
    """One Encode in progress."""

    job: Job
    encode: Encode
    key: BatchKey
    arrival: int
    tower: Tower = attrs.field(init=False)
    rows: Tensor = attrs.field(init=False)
    aux: tuple[Tensor, ...] = attrs.field(init=False)
    version: int = attrs.field(init=False)
    """Autograd's count of in-place changes of the rows."""
    alone: bool = False
    """A batch with its rows has raised: it may not share one again until it is answered."""
    answer: Tensor | None = None
    missing: dict[bytes, list[int]] = attrs.field(factory=dict)
    """Without gradient: where in the answer the rows belong that are not known yet, by row digest."""
    next_row: int = 0
    """With gradient: rows before it are computed."""
    pieces: list[Tensor] = attrs.field(factory=list)
    """With gradient: features of the rows so far, batch by batch."""
    tapes: list[Tape] = attrs.field(factory=list)
    """With gradient: the physical batches that hold its rows and were not pulled back yet."""
    cotangent: Tensor | None = None
    ready: bool = False
    """Its cotangent is complete: every later call of its job has been pulled back."""
    row_gradient: Tensor | None = None

    def __attrs_post_init__(self) -> None:
        encode = self.encode
        self.tower, self.rows, self.aux = encode.tower, encode.rows, encode.aux
        self.version = _version(self.rows)

    @property
    def touched(self) -> bool:
        """Whether somebody has written into the rows' memory since the request."""
        return _version(self.rows) != self.version

    @property
    def rows_left(self) -> int:
        """Rows that are still to be computed (without gradient: distinct rows)."""
        return len(self.rows) - self.next_row if self.key.op == "grad" else len(self.missing)

    @property
    def with_gradient(self) -> bool:
        return self.key.op == "grad"


@attrs.define(eq=False)
class Pull:
    """One Backward in progress: the calls are pulled back newest first."""

    job: Job
    loss: Tensor
    remaining: list[Call]
    since: int
    """The tick since which the newest remaining call has been waiting for its batch neighbours."""
    roots: list[Tensor] = attrs.field(factory=list)
    gradients: list[Tensor] = attrs.field(factory=list)


def _version(rows: Tensor) -> int:
    return 0 if rows.is_inference() else rows._version


def row_shape_key(encode: Encode, *, with_gradient: bool) -> BatchKey:
    """The group in which the rows of a request can share a physical batch."""
    rows, tower = encode.rows, encode.tower
    return BatchKey(
        tower.key,
        "grad" if with_gradient else "forward",
        tuple(rows.shape[1:]),
        rows.dtype,
        tower.device,
        tuple((tuple(a.shape[1:]), a.dtype) for a in encode.aux),
        encode.micro_batch or tower.micro_batch,
    )


def complaint(request: object) -> str | None:
    """Why a yielded object is not a valid request; None when it is."""
    if isinstance(request, Backward):
        if not isinstance(request.loss, Tensor):
            return f"Backward wants a tensor as loss, not {type(request.loss).__name__}"
        return None
    if isinstance(request, Gather):
        if request.max_live is not None and request.max_live < 1:
            return f"Gather wants max_live of at least 1, not {request.max_live}"
        return None
    if not isinstance(request, Encode):
        return f"a problem yields Encode, Backward or Gather, not {type(request).__name__}"
    if not isinstance(request.tower, Tower):
        return f"Encode wants a Tower, not {type(request.tower).__name__}"
    if not isinstance(request.rows, Tensor):
        return f"Encode wants a tensor of rows, not {type(request.rows).__name__}"
    if request.rows.dim() < 1 or request.rows.shape[0] < 1 or request.rows.layout != torch.strided:
        return f"Encode wants at least one row in a dense tensor, not shape {tuple(request.rows.shape)}"
    n = request.rows.shape[0]
    if not isinstance(request.aux, tuple) or not all(isinstance(a, Tensor) for a in request.aux):
        return "Encode wants aux as a tuple of tensors"
    if any(a.dim() < 1 or a.shape[0] != n for a in request.aux):
        return f"Encode got {n} rows and aux of shapes {[tuple(a.shape) for a in request.aux]}"
    keys = request.row_keys
    if keys is not None and (len(keys) != n or not all(isinstance(key, bytes) for key in keys)):
        return f"Encode wants a key of bytes for each of its {n} rows"
    for size in (request.micro_batch, request.tower.micro_batch):
        if size is not None and not is_power_of_two(size):
            return f"a micro-batch is a power of two, not {size!r}"
    return None
