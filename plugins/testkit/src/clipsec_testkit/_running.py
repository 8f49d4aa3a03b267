"""Running a detector on a control: alone, beside a neighbour, short of memory, or cut off."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.results import Verdict
from clipsec.scheduler import Backward, Encode, Gather, Problem, Scheduler, Tower
from clipsec_testkit._controls import Control, new_scheduler, spoiled
from clipsec_testkit._watch import Watch


@attrs.frozen(eq=False)
class Run:
    """How one run of a detector ended."""

    value: Any
    """What it returned; a `Verdict` if it keeps to the protocol."""
    error: BaseException | None
    watch: Watch
    steps: int
    """Requests that it yielded; 0 for a plain function."""
    changed: tuple[str, ...]
    """What it changed of the control."""

    @property
    def verdict(self) -> Verdict | None:
        return self.value if self.error is None and isinstance(self.value, Verdict) else None


Beside = Callable[[Scheduler, Problem, Control], Any]


def run_detector(
    make: Callable[[], Any],
    options: Any,
    control: Control,
    scratch: Path,
    *,
    beside: Beside | None = None,
    suspect: Suspect | None = None,
    reference: Suspect | None = None,
    wrap: Callable[[Problem], Problem] = lambda problem: problem,
) -> Run:
    """Run it to its end under a `Watch`. `beside` drives the scheduler instead of a plain run."""
    scheduler, steps = new_scheduler(), _Steps()
    before = control.seen or control.fingerprint()
    value, error = None, None
    with Watch(scratch, scratch / "verdict") as watch:
        changes = {"suspect": suspect or control.suspect, "reference": reference or control.reference}
        context = control.context(options, scratch / "verdict", scheduler, **changes)
        problem = wrap(_as_problem(make, context, steps))
        try:
            if beside is None:
                value = scheduler.run(problem, session="detector")
            else:
                value = beside(scheduler, problem, control)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error = raised
    after = control.seen = control.fingerprint()
    changed = tuple(name for name, value_before in before.items() if after[name] != value_before)
    if changed:
        spoiled(control.model.name)
    return Run(value, error, watch, steps.count, changed)


class _Steps:
    count = 0


def _as_problem(make: Callable[[], Any], context: Context, steps: _Steps) -> Problem:
    """The detector as a scheduler problem, its requests counted."""
    answer = make().detect(context)
    if not inspect.isgenerator(answer):
        return answer
    reply, failure = None, None
    try:
        while True:
            try:
                request = answer.send(reply) if failure is None else answer.throw(failure)
            except StopIteration as stop:
                return stop.value
            steps.count += 1
            try:
                reply, failure = (yield request), None
            except GeneratorExit:
                raise
            except BaseException as raised:
                reply, failure = None, raised
    finally:
        answer.close()


def with_neighbour(scheduler: Scheduler, problem: Problem, control: Control) -> Any:
    """Share the scheduler with a problem that asks the same towers for other rows, with gradient."""
    problems = [("neighbour", _neighbour(control)), ("detector", problem)]
    ended = {done.tag: done for done in scheduler.as_completed(problems, session=str)}
    ended["neighbour"].unwrap()
    return ended["detector"].unwrap()


def cancelled(scheduler: Scheduler, problem: Problem, control: Control) -> None:
    """Close the run as soon as a short neighbour has ended."""
    running = scheduler.as_completed([("detector", problem), ("short", _one_call(control))], session=str)
    for done in running:
        if done.tag == "short":
            break
    running.close()  # type: ignore[attr-defined]


def cut_after(problem: Problem, steps: int) -> Problem:
    """The problem for some requests, then closed."""
    request = next(problem)
    for _ in range(steps - 1):
        request = problem.send((yield request))
    problem.close()


def _one_call(control: Control) -> Problem:
    rows = torch.full((2, 3, 32, 32), 0.5)
    yield Encode(control.suspect.image_tower(), rows, cache=False)


def _neighbour(control: Control) -> Problem:
    generator = torch.Generator().manual_seed(99)
    for _ in range(6):
        rows = torch.rand(5, 3, 32, 32, generator=generator).requires_grad_()
        features = yield Encode(control.suspect.image_tower(), rows)
        logits = yield Encode(control.suspect.head(), features)
        yield Backward(logits.square().mean())


class ShortOfMemory(Suspect):
    """The same suspect, whose towers run out of memory with more than a few rows."""

    def image_tower(self, dtype: torch.dtype = torch.float32) -> Tower:
        """As of the suspect."""
        return short_of_memory(super().image_tower(dtype))

    def head(self, dtype: torch.dtype = torch.float32) -> Tower:
        """As of the suspect."""
        return short_of_memory(super().head(dtype))

    def zero_shot_head(self, dtype: torch.dtype = torch.float32) -> Tower:
        """As of the suspect."""
        return short_of_memory(super().zero_shot_head(dtype))


def starved(suspect: Suspect) -> Suspect:
    """A `ShortOfMemory` with the same model."""
    fields = {f.name: getattr(suspect, f.name) for f in attrs.fields(Suspect) if f.init}
    return ShortOfMemory(**fields)


ROWS_THAT_FIT = 4


@attrs.frozen(eq=False)
class _Starved:
    """A tower's function on a device that has memory for a few rows only."""

    fn: Callable[..., Tensor]

    def __call__(self, rows: Tensor, *aux: Tensor) -> Tensor:
        if len(rows) > ROWS_THAT_FIT:
            raise torch.OutOfMemoryError("CUDA out of memory (injected by clipsec-testkit).")
        return self.fn(rows, *aux)


def short_of_memory(tower: Tower) -> Tower:
    """The tower with such a function."""
    return tower if isinstance(tower.fn, _Starved) else attrs.evolve(tower, fn=_Starved(tower.fn))


def starving(problem: Problem) -> Problem:
    """The problem with every tower that it asks for short of memory, also those it prepared itself."""
    try:
        request = next(problem)
        while True:
            if isinstance(request, Encode):
                request = attrs.evolve(request, tower=short_of_memory(request.tower))
            elif isinstance(request, Gather):
                children = request.problems
                request = attrs.evolve(request, problems=((tag, starving(child)) for tag, child in children))
            try:
                reply = yield request
            except GeneratorExit:
                problem.close()
                raise
            except Exception as error:
                request = problem.throw(error)
            else:
                request = problem.send(reply)
    except StopIteration as stop:
        return stop.value
