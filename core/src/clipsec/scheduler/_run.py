"""One run: the live problems of one `as_completed`, carried on step by step in one thread."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from functools import partial
from typing import Any

import torch

from clipsec.errors import ContractError
from clipsec.scheduler._ambient import autocast_state, leaked_mode, own_surroundings
from clipsec.scheduler._backward import BackwardPass
from clipsec.scheduler._core import Core
from clipsec.scheduler._counts import Session
from clipsec.scheduler._events import ProblemDone, ProblemStarted
from clipsec.scheduler._forward import ForwardPass
from clipsec.scheduler._jobs import Call, Family, Job, complaint, row_shape_key
from clipsec.scheduler._requests import Backward, Done, Encode, Gather, Problem
from clipsec.scheduler._waits import Park, Wait, Waits

_LOG = logging.getLogger("clipsec.scheduler")

_RUBBISH_LIMIT = 16
"""A problem that answers so many ContractErrors in a row with another broken request is failed."""

_MESSAGES_A_STEP = 256
"""What comes from outside in a row, before a batch is computed all the same."""


class Run:
    """The live problems of one `as_completed` and of everything they gather."""

    def __init__(
        self,
        core: Core,
        problems: Iterable[tuple[Hashable, Problem]],
        *,
        session: str | Callable[[Hashable], str],
        priority: int | Callable[[Hashable], int],
        max_live: int,
        gather_live: int,
    ) -> None:
        self._core = core
        self._session = session
        self._priority = priority
        self._top = Family(iter(problems), max_live, parent=None)
        self._orders = itertools.count()
        self._inbox: deque[tuple[Job, Any, BaseException | None]] = deque()
        self._hungry: dict[Family, None] = {}
        """Families of which more problems may be drawn."""
        self._served: dict[Session, int] = {}
        self._live_by_session: dict[Session, int] = {}
        self._gather_live = gather_live
        self._forward = ForwardPass(core, self._resume_with, self._standing, self._serve)
        self._backward = BackwardPass(core, self._resume_with)
        self._waits = Waits(self._resume_with)

    @property
    def out(self) -> deque[Done]:
        """Ended problems to hand over."""
        return self._top.out

    @property
    def finished(self) -> bool:
        return self._top.finished and not self._top.out

    def step(self) -> None:
        """Draw what there is room for, let plugins run until all of them wait, and do one batch for them."""
        with own_surroundings():
            self._autocast = autocast_state()
            self._hungry[self._top] = None
            self._let_plugins_run()
            self._hear()
            if self._top.out:
                return
            if self._backward.step() or self._forward.step():
                self._backward.split_the_impatient()
            elif self._waits:
                self._waits.look(idle=True)
            elif self._top.live:
                raise AssertionError("live problems, and nothing to do for them")
            self._let_plugins_run()

    def _hear(self) -> None:
        """Let in what comes from outside, as long as that is worth a batch's time; a chatterer is cut off."""
        for _ in range(_MESSAGES_A_STEP):
            if not self._waits or not self._waits.look(idle=False):
                return
            self._let_plugins_run()

    def close(self) -> None:
        """Cancel everything that is live. Errors that plugins raise while closing do not stop it."""
        with own_surroundings():
            self._close_family(self._top)

    # Drawing and ending problems

    def _draw(self, family: Family) -> bool:
        """Start the next problem of a family; False if there is no room or none is left."""
        if not family.has_room:
            return False
        try:
            item = next(family.source)
        except StopIteration:
            family.exhausted = True
            return False
        finally:
            torch.set_grad_enabled(True)
        self._start(family, item)
        return True

    def _draw_for(self, family: Family) -> None:
        """Start one more problem of a family, or note that for now it has enough."""
        parent = family.parent
        try:
            drawn = self._draw(family)
        except Exception as error:
            if parent is None:
                raise
            self._fail_family(family, error)
            return
        if drawn:
            return
        del self._hungry[family]
        if parent is not None and family.finished:
            parent.children = None
            self._inbox.append((parent, [family.results[i] for i in range(family.drawn)], None))

    def _start(self, family: Family, item: Any) -> None:
        try:
            tag, problem = item
        except (TypeError, ValueError):
            raise ContractError(
                f"problems come as pairs (tag, generator), not as {type(item).__name__}",
                remedy="Yield (tag, problem) from the iterable.",
            ) from None
        parent = family.parent
        if parent is None:
            name = self._session if isinstance(self._session, str) else self._session(tag)
            session = self._core.session(name)
            priority = self._priority if isinstance(self._priority, int) else self._priority(tag)
        else:
            session, priority = parent.session, parent.priority
        job = Job(problem, tag, session, priority, next(self._orders), family)
        family.live[job] = None
        family.places[job] = family.drawn
        family.drawn += 1
        self._enter(session)
        self._core.tell(ProblemStarted, session.name, tag)
        if not isinstance(problem, Generator):
            job.problem = _refused(type(problem).__name__)
        self._inbox.append((job, None, None))

    def _end(self, job: Job, done: Done) -> None:
        self._forget(job)
        family = job.family
        place = family.places[job]
        del family.live[job], family.places[job]
        self._core.tell(ProblemDone, job.session.name, job.tag, done.error)
        parent = family.parent
        if parent is None:
            family.out.append(done)
            return
        family.results[place] = done
        if family.on_done is not None:
            try:
                family.on_done(done)
            except Exception as error:
                self._fail_family(family, error)
                return
        self._hungry[family] = None

    def _fail_family(self, family: Family, error: Exception) -> None:
        parent = family.parent
        assert parent is not None
        self._close_family(family)
        parent.children = None
        self._inbox.append((parent, None, error))

    def _close_family(self, family: Family) -> None:
        family.exhausted = True
        self._hungry.pop(family, None)
        interrupt: BaseException | None = None
        for job in list(family.live):
            try:
                self._cancel(job)
            except BaseException as error:
                interrupt = error
        family.live.clear()
        if interrupt is not None:
            raise interrupt

    def _cancel(self, job: Job) -> None:
        try:
            if job.children is not None:
                self._close_family(job.children)
        finally:
            self._forget(job)
            self._core.tell(ProblemDone, job.session.name, job.tag, None, True)
            self._close_problem(job)

    def _close_problem(self, job: Job) -> None:
        torch.set_grad_enabled(job.grad_enabled)
        try:
            job.problem.close()
        except Exception as error:
            _LOG.warning("problem %r raised while it was closed: %r", job.tag, error)
        finally:
            torch.set_grad_enabled(True)

    def _forget(self, job: Job) -> None:
        job.ended = True
        self._forward.forget(job)
        self._backward.forget(job)
        self._waits.forget(job)
        self._live_by_session[job.session] -= 1

    # Running plugins

    def _resume_with(self, job: Job, value: Any = None, error: BaseException | None = None) -> None:
        self._inbox.append((job, value, error))

    def _let_plugins_run(self) -> None:
        while True:
            if self._inbox:
                job, value, error = self._inbox.popleft()
                if not job.ended:
                    self._resume(job, value, error)
            elif self._hungry:
                self._draw_for(next(iter(self._hungry)))
            else:
                return

    def _resume(self, job: Job, value: Any, error: BaseException | None) -> None:
        if self._core.canaries is not None:
            self._core.canaries.ran(job.tag)
        done: Done | None = None
        outside, self._core.running = self._core.running, job.session
        torch.set_grad_enabled(job.grad_enabled)
        try:
            request = job.problem.send(value) if error is None else job.problem.throw(error)
            job.grad_enabled = torch.is_grad_enabled()
        except StopIteration as stop:
            done = Done(job.tag, stop.value)
        except Exception as raised:
            done = Done(job.tag, error=raised)
        finally:
            self._core.running = outside
            torch.set_grad_enabled(True)
        if done is not None:
            self._end(job, done)
        elif (mode := leaked_mode(self._autocast)) is not None:
            self._reject(job, f"a problem yielded inside {mode}, which would reach its neighbours")
        else:
            self._accept(job, request)

    def _accept(self, job: Job, request: Any) -> None:
        if isinstance(request, Wait):
            self._waits.accept(job, request)
            return
        if isinstance(request, Park):
            request.bind(partial(self._resume_with, job))
            return
        wrong = complaint(request)
        if wrong is not None:
            self._reject(job, wrong)
            return
        job.rubbish = 0
        if isinstance(request, Encode):
            key = row_shape_key(request, with_gradient=request.rows.requires_grad)
            self._forward.accept(Call(job, request, key, next(self._orders)))
        elif isinstance(request, Backward):
            self._backward.accept(job, request.loss)
        else:
            self._gather(job, request)

    def _reject(self, job: Job, wrong: str) -> None:
        job.rubbish += 1
        error = ContractError(wrong, remedy="Fix the problem's yield; see clipsec.scheduler.Request.")
        if job.rubbish < _RUBBISH_LIMIT:
            # At the front: a mode that leaked has to go before anybody else runs.
            self._inbox.appendleft((job, None, error))
        else:
            self._end(job, Done(job.tag, error=error))
            self._close_problem(job)

    def _gather(self, job: Job, request: Gather) -> None:
        try:
            source = iter(request.problems)
        except TypeError:
            self._reject(job, f"Gather wants an iterable of problems, not {type(request.problems).__name__}")
            return
        family = Family(source, request.max_live or self._gather_live, job, on_done=request.on_done)
        job.children = family
        self._hungry[family] = None

    # Fairness between sessions

    def _enter(self, session: Session) -> None:
        """A session that comes to life starts level with the least served one, not with a claim on the
        past."""
        if not self._live_by_session.get(session):
            level = min((self._served[s] for s, n in self._live_by_session.items() if n), default=0)
            self._served[session] = max(self._served.get(session, 0), level)
        self._live_by_session[session] = self._live_by_session.get(session, 0) + 1

    def _serve(self, session: Session, rows: int) -> None:
        self._served[session] += rows

    def _standing(self, call: Call) -> tuple[int, int]:
        return (-call.job.priority, self._served[call.job.session])


def _refused(what: str) -> Problem:
    """A problem that stands for something that is none, and fails in its place."""
    raise ContractError(
        f"a problem is a generator, not {what}",
        remedy="Call the generator function, and let it yield its requests.",
    )
    yield
