"""Physical batches that will be pulled back: one forward for rows of several problems, one vjp later."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from clipsec.scheduler._batch import BatchKey
from clipsec.scheduler._counts import Session
from clipsec.scheduler._jobs import Call
from clipsec.scheduler._requests import Tower

_NOTHING = torch.empty(0)


@attrs.frozen(eq=False)
class Member:
    """Rows `start:stop` of a call, at `offset` in a physical batch."""

    call: Call
    start: int
    stop: int
    offset: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def span(self) -> slice:
        """Its place in the physical batch."""
        return slice(self.offset, self.offset + self.stop - self.start)


@attrs.define(eq=False)
class Tape:
    """One physical forward that awaits its vjp."""

    tower: Tower
    key: BatchKey
    members: list[Member] = attrs.field(factory=list)
    x: Tensor = attrs.field(default=_NOTHING)
    """The physical batch on the tower's device, padding included; kept, so that it can be computed again."""
    aux: tuple[Tensor, ...] = ()
    y: Tensor | None = None
    """The output with its graph, while that is kept."""

    @property
    def waits(self) -> bool:
        """Whether some member's cotangent is not known yet."""
        return not all(member.call.ready for member in self.members)

    def add(self, call: Call, start: int, stop: int) -> None:
        """Append rows of a call to the batch."""
        offset = self.members[-1].span.stop if self.members else 0
        self.members.append(Member(call, start, stop, offset))

    def drop(self, call: Call) -> None:
        """Forget a call that will never be pulled back."""
        self.members = [member for member in self.members if member.call is not call]

    def split(self) -> Tape:
        """Take the members that are ready out of this tape, into one whose rows will be computed again.

        The graph stays here, with the members that are still on their way.
        """
        ready = [member for member in self.members if member.call.ready]
        self.members = [member for member in self.members if not member.call.ready]
        apart = Tape(self.tower, self.key, ready, self.x, self.aux)
        for member in ready:
            member.call.tapes.remove(self)
            member.call.tapes.append(apart)
        return apart


class OpenGraphs:
    """The graphs that are kept between forward and vjp: at most `rows` rows a tower, else the oldest goes.

    Keeping a graph saves computing its rows again and costs its activations. Measured on one core, a
    problem of 64 rows in batches of 32 through a six-layer ViT: 0.66 s a step with both graphs kept, 0.83 s
    with one computed again, and the same bits, because a forward is run with its graph even if that is let
    go at once (2 % slower than without). The graph made last is always kept, whatever its size.
    """

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._by_tower: dict[str, OrderedDict[Tape, None]] = {}

    def keep(self, tape: Tape) -> None:
        """Note that the tape holds a graph, and let go of the oldest ones that are too many."""
        tapes = self._by_tower.setdefault(tape.tower.key, OrderedDict())
        tapes[tape] = None
        budget = 2 * len(tape.x) if self._rows is None else self._rows
        held = sum(len(other.x) for other in tapes)
        while held > budget and len(tapes) > 1:
            oldest, _ = tapes.popitem(last=False)
            held -= len(oldest.x)
            oldest.y = None

    def forget(self, tape: Tape) -> None:
        """The tape is done with; its graph goes."""
        tape.y = None
        tapes = self._by_tower.get(tape.tower.key)
        if tapes is not None:
            tapes.pop(tape, None)
            if not tapes:
                del self._by_tower[tape.tower.key]

    def abandon(self, call: Call) -> None:
        """The call will never be pulled back; batches that hold nobody else's rows are done with."""
        for tape in call.tapes:
            tape.drop(call)
            if not tape.members:
                self.forget(tape)
        call.tapes.clear()

    def drop_all(self) -> bool:
        """Let every graph go, to be computed again when needed; whether there was one."""
        tapes = [tape for tapes in self._by_tower.values() for tape in tapes]
        for tape in tapes:
            tape.y = None
        self._by_tower.clear()
        return bool(tapes)

    def __len__(self) -> int:
        return sum(map(len, self._by_tower.values()))


def physical_batch(
    parts: Sequence[Tensor], size: int, device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    """Rows of several problems as one batch of `size` rows, padded with repeats of the last row.

    A copy in any case: what a plugin does to its rows afterwards does not reach the batch. Floating rows
    are cast to `dtype`, others never.
    """
    rows = sum(map(len, parts))
    padded = list(parts)
    if rows < size:
        last = parts[-1][-1:]
        padded.append(last.expand(size - rows, *last.shape[1:]))
    batch = torch.cat(padded).detach()
    if dtype is not None and batch.is_floating_point():
        return batch.to(device, dtype)
    return batch.to(device)


def cotangent_batch(members: Sequence[Member], like: Tensor) -> Tensor:
    """The members' cotangents at their places in a physical batch, zero for everybody else."""
    batch = torch.zeros_like(like)
    for member in members:
        cotangent = member.call.cotangent
        assert cotangent is not None
        batch[member.span] = cotangent[member.start : member.stop]
    return batch


def shares_of(members: Sequence[Member]) -> dict[Session, int]:
    """Rows by session."""
    shares: dict[Session, int] = {}
    for member in members:
        session = member.call.job.session
        shares[session] = shares.get(session, 0) + member.rows
    return shares


def add_row_gradient(member: Member, gradient: Tensor) -> None:
    """Put the gradient of a member's rows (a physical batch's, on any device) into its call's row
    gradient."""
    call, rows = member.call, member.call.rows
    piece = gradient[member.span].to(rows.device, rows.dtype)
    if member.rows == rows.shape[0]:
        call.row_gradient = piece
        return
    if call.row_gradient is None:
        call.row_gradient = torch.empty_like(rows, requires_grad=False)
    call.row_gradient[member.start : member.stop] = piece
