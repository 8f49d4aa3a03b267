"""Backward passes: the calls of each problem newest first, those of many problems in one vjp."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.scheduler._core import Core, too_little_memory
from clipsec.scheduler._counts import Session
from clipsec.scheduler._jobs import Call, Job, Pull
from clipsec.scheduler._memory import is_out_of_memory
from clipsec.scheduler._physical import Attempt, attempt
from clipsec.scheduler._tape import Member, Tape, add_row_gradient, cotangent_batch, physical_batch, shares_of

PATIENCE = 16
"""Steps for which a problem waits for its neighbours in a batch before its rows are computed again without
them. Waiting costs no throughput while there is other work; splitting costs one forward."""


class BackwardPass:
    """The problems that wait for their Backward.

    A problem's calls form a stack. The cotangent of the newest is complete as soon as the loss has been
    differentiated; that of an older one when every newer call has been pulled back and the glue between them
    differentiated. A physical batch is pulled back once it is on top of all its members' stacks.

    Nobody waits for ever. Batches are created in one order for everybody, so consider the newest that
    waits: it is on top for every member that has come to its Backward. A member that has not is waiting for
    an encode, which can be computed, or for children, whose batches are newer still. While such a laggard
    goes its way, the others are split off after `PATIENCE` steps.
    """

    def __init__(self, core: Core, resume: Callable[[Job, Any, BaseException | None], None]) -> None:
        self._core = core
        self._resume = resume
        self._pulls: dict[Job, Pull] = {}
        self._steps = 0

    def accept(self, job: Job, loss: Tensor) -> None:
        """Differentiate the plugin's graph down to the newest features, and queue what lies beyond."""
        inputs = [_leaf(call) for call in job.calls]
        tried = self._differentiate(job, loss, None, inputs)
        if tried.error is not None:
            self._resume(job, None, tried.error)
            return
        for call, gradient in zip(job.calls, tried.get()):
            call.cotangent = gradient
        pull = job.pull = Pull(job, loss, list(job.calls), self._steps)
        self._pulls[job] = pull
        self._descend(pull)

    def forget(self, job: Job) -> None:
        """The job has ended: nobody waits for its gradients."""
        self._pulls.pop(job, None)
        self._release(job)

    def step(self) -> bool:
        """Pull back every batch whose members are all ready; False when there is none."""
        self._steps += 1
        worked = False
        while (tape := self._ready_tape()) is not None:
            worked = True
            self._pull_back(tape)
        return worked

    def split_the_impatient(self) -> None:
        """Part problems that have waited for too long from the neighbours they wait for."""
        for pull in self._pulls.values():
            if self._steps - pull.since > PATIENCE:
                pull.since = self._steps
                for tape in list(pull.remaining[-1].tapes):
                    if tape.waits:
                        tape.split()

    def _ready_tape(self) -> Tape | None:
        seen: set[Tape] = set()
        for pull in self._pulls.values():
            for tape in pull.remaining[-1].tapes:
                if tape not in seen:
                    seen.add(tape)
                    if not tape.waits:
                        return tape
        return None

    # Down the stack of one problem

    def _descend(self, pull: Pull) -> None:
        while pull.remaining:
            call = pull.remaining[-1]
            if call.cotangent is not None:
                call.ready = True
                pull.since = self._steps
                return
            # The loss does not depend on these features: there is nothing to pull back.
            self._core.graphs.abandon(call)
            pull.remaining.pop()
        self._finish(pull)

    def _passed(self, call: Call) -> None:
        """All rows of the newest call are pulled back: carry on through the glue to older features."""
        pull = call.job.pull
        assert pull is not None
        assert call.row_gradient is not None
        pull.remaining.pop()
        pull.roots.append(call.rows)
        pull.gradients.append(call.row_gradient)
        if pull.remaining:
            inputs = [_leaf(older) for older in pull.remaining]
            tried = self._differentiate(call.job, call.rows, call.row_gradient, inputs)
            if tried.error is not None:
                self._abandon(call.job, tried.error)
                return
            for older, gradient in zip(pull.remaining, tried.get()):
                if gradient is not None:
                    older.cotangent = gradient if older.cotangent is None else older.cotangent + gradient
        self._descend(pull)

    def _finish(self, pull: Pull) -> None:
        """One pass over the plugin's whole graph, which accumulates into its leaves and frees the graph."""
        job = pull.job
        del self._pulls[job]
        roots = [pull.loss, *pull.roots]
        tried = attempt(lambda: torch.autograd.backward(roots, [None, *pull.gradients]))
        self._release(job)
        self._resume(job, None, tried.error)

    def _abandon(self, job: Job, error: Exception) -> None:
        del self._pulls[job]
        self._release(job)
        self._resume(job, None, error)

    def _release(self, job: Job) -> None:
        for call in job.calls:
            self._core.graphs.abandon(call)
        job.stale = [ref for ref in job.stale if ref() is not None]
        job.stale += [weakref.ref(_leaf(call)) for call in job.calls]
        job.calls = []
        job.pull = None

    def _differentiate(
        self, job: Job, output: Tensor, cotangent: Tensor | None, inputs: Sequence[Tensor]
    ) -> Attempt[tuple[Tensor | None, ...]]:
        """Gradients of the plugin's glue; nothing is accumulated and nothing freed."""
        stale = [leaf for ref in job.stale if (leaf := ref()) is not None]
        wanted = [*inputs, *stale]
        if not wanted:
            return Attempt(())

        def differentiate() -> tuple[Tensor | None, ...]:
            return torch.autograd.grad([output], wanted, [cotangent], retain_graph=True, allow_unused=True)

        tried = attempt(differentiate)
        if tried.error is None and any(gradient is not None for gradient in tried.get()[len(inputs) :]):
            return Attempt(error=_used_up())
        return tried

    # One physical batch of many problems

    def _pull_back(self, tape: Tape) -> None:
        calls = list(dict.fromkeys(member.call for member in tape.members))
        failed: dict[Call, Exception] = {}
        if not self._through_kept_graph(tape):
            failed = self._by_computing_again(tape)
        self._core.graphs.forget(tape)
        for call in calls:
            if call in failed:
                self._abandon(call.job, failed[call])
                continue
            call.tapes.remove(tape)
            if not call.tapes:
                self._passed(call)

    def _through_kept_graph(self, tape: Tape) -> bool:
        if tape.y is None:
            return False
        shares = shares_of(tape.members)
        tried = attempt(partial(self._vjp_of_kept, tape, tape.y, shares))
        self._core.graphs.forget(tape)
        if tried.error is not None:
            if is_out_of_memory(tried.error):
                self._core.make_room(tape.tower, tape.key, set(shares))
            return False
        for member in tape.members:
            add_row_gradient(member, tried.get())
        return True

    def _vjp_of_kept(self, tape: Tape, y: Tensor, shares: dict[Session, int]) -> Tensor:
        cotangent = cotangent_batch(tape.members, y)
        return self._core.physical.vjp(tape.tower, tape.key, y, tape.x, cotangent, shares)

    def _by_computing_again(self, tape: Tape) -> dict[Call, Exception]:
        """Forward and vjp once more, in as many batches as fit; the calls of which some row would not."""
        queue = deque(tape.members)
        failed: dict[Call, Exception] = {}
        alone = False
        while queue:
            size = self._core.safe.get(tape.key)
            batch = _take(queue, size, alone)
            tried = attempt(partial(self._recompute, tape, batch, size))
            if tried.error is None:
                for source, target in batch:
                    add_row_gradient(Member(source.call, source.start, source.stop, target), tried.get())
                continue
            sessions = {source.call.job.session for source, _ in batch}
            error = tried.error
            if is_out_of_memory(error):
                if self._core.make_room(tape.tower, tape.key, sessions):
                    queue.extendleft(source for source, _ in reversed(batch))
                    continue
                error = too_little_memory(tape.tower, error)
            elif len({source.call for source, _ in batch}) > 1:
                alone = True
                queue.extendleft(source for source, _ in reversed(batch))
                continue
            culprit = batch[0][0].call
            failed[culprit] = error
            queue = deque(member for member in queue if member.call is not culprit)
        return failed

    def _recompute(self, tape: Tape, batch: list[tuple[Member, int]], size: int) -> Tensor:
        spans = [source.span for source, _ in batch]
        tower = tape.tower
        x = physical_batch([tape.x[span] for span in spans], size, tower.device, None).requires_grad_(True)
        aux = tuple(physical_batch([a[span] for span in spans], size, tower.device, None) for a in tape.aux)
        members = [Member(source.call, source.start, source.stop, target) for source, target in batch]
        shares = shares_of(members)
        y = self._core.physical.forward(tower, tape.key, x, aux, shares, "recompute")
        return self._core.physical.vjp(tower, tape.key, y, x, cotangent_batch(members, y), shares)


def _take(queue: deque[Member], size: int, alone: bool) -> list[tuple[Member, int]]:
    """Up to `size` rows from the queue (of one call only if `alone`), each with its new offset."""
    batch: list[tuple[Member, int]] = []
    filled = 0
    while queue and filled < size:
        member = queue[0]
        if alone and batch and member.call is not batch[0][0].call:
            break
        rows = min(member.rows, size - filled)
        middle = member.start + rows
        batch.append((Member(member.call, member.start, middle, member.offset), filled))
        filled += rows
        if middle == member.stop:
            queue.popleft()
        else:
            queue[0] = Member(member.call, middle, member.stop, member.offset + rows)
    return batch


def _leaf(call: Call) -> Tensor:
    assert call.answer is not None
    return call.answer


def _used_up() -> ContractError:
    return ContractError(
        "the loss depends on features that an earlier Backward has already used up",
        remedy="Encode the rows again, or detach the features that are meant as constants.",
    )
