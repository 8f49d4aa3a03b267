"""Forward passes: one physical batch for whoever is next, and the answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.scheduler._batch import BatchKey
from clipsec.scheduler._core import Core, too_little_memory
from clipsec.scheduler._counts import Session
from clipsec.scheduler._jobs import Call, Job
from clipsec.scheduler._memory import is_out_of_memory
from clipsec.scheduler._packing import (
    cache_prefix,
    companions,
    fill_with_ranges,
    fill_with_rows,
    row_digests,
)
from clipsec.scheduler._physical import attempt, call_tower
from clipsec.scheduler._tape import Tape, physical_batch, shares_of


class ForwardPass:
    """The encodes that wait for rows."""

    def __init__(
        self,
        core: Core,
        resume: Callable[[Job, Any, BaseException | None], None],
        standing: Callable[[Call], tuple[int, int]],
        serve: Callable[[Session, int], None],
    ) -> None:
        self._core = core
        self._resume = resume
        self._standing = standing
        self._serve = serve
        self._pending: dict[Call, None] = {}

    def accept(self, call: Call) -> None:
        """Queue a new encode, or answer it from the cache."""
        call.job.call = call
        self._pending[call] = None
        if call.with_gradient:
            return
        if not call.encode.cache:
            # Names that no other row has: neither shared nor remembered.
            call.missing = {b"%d/%d" % (call.arrival, place): [place] for place in range(len(call.rows))}
            return
        for place, digest in enumerate(row_digests(call.encode)):
            call.missing.setdefault(digest, []).append(place)
        self._look_up(call)

    def forget(self, job: Job) -> None:
        """The job has ended: nobody waits for its rows."""
        if job.call is not None:
            self._pending.pop(job.call, None)
            self._core.graphs.abandon(job.call)
            job.call = None

    def step(self) -> bool:
        """Compute one physical batch; False when nobody waits."""
        if not self._pending:
            return False
        calls = companions(self._pending, self._standing, self._core.safe.get)
        if self._core.canaries is not None:
            self._core.canaries.check(calls[0].tower)
        size = self._core.micro_batch(calls[0].key, partial(_probe_call, calls[0]))
        if calls[0].with_gradient:
            self._with_gradient(calls, size)
        else:
            self._without_gradient(calls, size)
        return True

    def _with_gradient(self, calls: list[Call], size: int) -> None:
        picked = fill_with_ranges(calls, size)
        tower, key = picked[0][0].tower, picked[0][0].key
        tape = Tape(tower, key)
        for call, start, stop in picked:
            tape.add(call, start, stop)
        shares = shares_of(tape.members)

        def compute() -> list[Tensor]:
            parts = [call.rows.detach()[start:stop] for call, start, stop in picked]
            tape.x = physical_batch(parts, size, tower.device, tower.dtype).requires_grad_(True)
            tape.aux = _stack_aux([[a[i:j] for a in c.aux] for c, i, j in picked], size, tower.device)
            tape.y = self._core.physical.forward(tower, key, tape.x, tape.aux, shares, "grad")
            return [_copy(tape.y[m.span], m.call.rows.device) for m in tape.members]

        tried = attempt(compute)
        if tried.error is not None:
            tape.y = None
            self._failed([call for call, _, _ in picked], tried.error)
            return
        self._core.graphs.keep(tape)
        for member, features in zip(tape.members, tried.get()):
            call = member.call
            call.tapes.append(tape)
            call.pieces.append(features)
            call.next_row = member.stop
            self._serve(call.job.session, member.rows)
            if call.next_row == len(call.rows):
                call.answer = features if len(call.pieces) == 1 else torch.cat(call.pieces)
                call.pieces.clear()
                call.answer.requires_grad_(True)
                call.job.calls.append(call)
                self._answer(call)

    def _without_gradient(self, calls: list[Call], size: int) -> None:
        owners: dict[Call, dict[bytes, int]] = {}
        for digest, (call, place) in fill_with_rows(calls, size).items():
            owners.setdefault(call, {})[digest] = place
        changed = [call for call in owners if call.touched and _content_changed(call)]
        for call in changed:
            self._give_up(call, _changed_rows())
        if changed:
            return
        tower, key = calls[0].tower, calls[0].key
        parts = [(call, list(rows.values())) for call, rows in owners.items()]
        shares: dict[Session, int] = {}
        for call, places in parts:
            shares[call.job.session] = shares.get(call.job.session, 0) + len(places)

        def compute() -> Tensor:
            x = physical_batch([_rows_at(c.rows, p) for c, p in parts], size, tower.device, tower.dtype)
            aux = _stack_aux([[_rows_at(a, p) for a in c.aux] for c, p in parts], size, tower.device)
            y = self._core.physical.forward(tower, key, x, aux, shares, "forward")
            return _copy(y[: sum(shares.values())], torch.device("cpu"))

        tried = attempt(compute)
        if tried.error is not None:
            self._failed(list(owners), tried.error)
            return
        found = dict(zip((digest for rows in owners.values() for digest in rows), tried.get()))
        self._store(
            key, size, {d: found[d] for call, rows in owners.items() if call.encode.cache for d in rows}
        )
        for session, rows in shares.items():
            self._serve(session, rows)
        for call in calls:
            here = {digest: row for digest, row in found.items() if digest in call.missing}
            if here:
                paid = owners.get(call, {})
                self._count_cached(call, sum(len(call.missing[d]) - (d in paid) for d in here))
                self._fill(call, here)

    def _look_up(self, call: Call) -> None:
        size = self._core.micro_batch(call.key, partial(_probe_call, call))
        prefix = cache_prefix(call.key, size)
        found: dict[bytes, Tensor] = {}
        for digest in call.missing:
            row = self._core.cache.get(prefix + digest)
            if row is not None:
                found[digest] = row
        if found:
            self._count_cached(call, sum(len(call.missing[d]) for d in found))
            self._fill(call, found)

    def _store(self, key: BatchKey, size: int, found: dict[bytes, Tensor]) -> None:
        prefix = cache_prefix(key, size)
        for digest, row in found.items():
            self._core.cache.put(prefix + digest, row.clone())

    def _fill(self, call: Call, found: dict[bytes, Tensor]) -> None:
        """Put rows into the answer, each wherever it is wanted; the last ones complete it."""
        places: list[int] = []
        rows: list[Tensor] = []
        for digest, row in found.items():
            here = call.missing.pop(digest)
            places += here
            rows += [row] * len(here)
        block = torch.stack(rows)
        if call.answer is None:
            call.answer = torch.empty((len(call.rows), *block.shape[1:]), dtype=torch.float32)
        call.answer[places] = block
        if not call.missing:
            call.answer = call.answer.to(call.rows.device)
            self._answer(call)

    def _count_cached(self, call: Call, rows: int) -> None:
        call.job.session.cached_rows += rows
        self._core.total.cached_rows += rows

    def _answer(self, call: Call) -> None:
        del self._pending[call]
        call.job.call = None
        self._resume(call.job, call.answer, None)

    def _failed(self, calls: list[Call], error: Exception) -> None:
        """Nothing was consumed: free memory and leave the calls pending, or find out whose fault it is."""
        first = calls[0]
        if is_out_of_memory(error):
            if self._core.make_room(first.tower, first.key, {call.job.session for call in calls}):
                return
            error = too_little_memory(first.tower, error)
        elif len(calls) > 1:
            for call in calls:
                call.alone = True
            return
        self._give_up(first, error)

    def _give_up(self, call: Call, error: Exception) -> None:
        self._pending.pop(call)
        call.job.call = None
        self._core.graphs.abandon(call)
        self._resume(call.job, None, error)


def _content_changed(call: Call) -> bool:
    """Whether rows that are to be remembered are no longer what was hashed. Keys that the caller gave say
    nothing about it, so there a write to the rows' memory is enough."""
    if not call.encode.cache:
        return False
    return call.encode.row_keys is not None or not call.missing.keys() <= set(row_digests(call.encode))


def _changed_rows() -> ContractError:
    return ContractError(
        "the rows of an Encode were changed in place before it was answered",
        remedy="Give every Encode rows of its own: clone what other code writes into.",
    )


def _probe_call(call: Call, rows: int) -> None:
    """A call of `rows` copies of the first row, with its vjp if one would follow."""
    device, dtype = call.tower.device, call.tower.dtype
    x = physical_batch([call.rows[:1]], rows, device, dtype).requires_grad_(call.with_gradient)
    aux = tuple(physical_batch([a[:1]], rows, device, None) for a in call.aux)
    y = call_tower(call.tower, x, aux)
    if call.with_gradient:
        torch.autograd.grad(y, x, torch.zeros_like(y))


def _copy(features: Tensor, device: torch.device) -> Tensor:
    """Features of some rows as float32 on a device, in memory of their own."""
    return features.detach().to(device, torch.float32, copy=True)


def _stack_aux(columns: list[list[Tensor]], size: int, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(physical_batch(parts, size, device, None) for parts in zip(*columns))


def _rows_at(rows: Tensor, places: list[int]) -> Tensor:
    first, last = places[0], places[-1]
    if last - first + 1 == len(places) and places == list(range(first, last + 1)):
        return rows.detach()[first : last + 1]
    return rows.detach()[places]
