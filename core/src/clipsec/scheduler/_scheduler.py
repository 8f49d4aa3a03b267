"""The scheduler that plugins and runners call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor

from clipsec.scheduler._batch import CPU_MICRO_BATCH, SafeBatch
from clipsec.scheduler._cache import FeatureCache
from clipsec.scheduler._canary import Canaries
from clipsec.scheduler._core import Core
from clipsec.scheduler._counts import Counts
from clipsec.scheduler._events import Event
from clipsec.scheduler._requests import Done, Encode, Problem, Tower
from clipsec.scheduler._run import Run
from clipsec.scheduler._tape import OpenGraphs


class Scheduler:
    """Runs problems step by step in one thread, and packs what they ask of the same tower into one call.

    `micro_batch` is the physical batch, a power of two; None means 32 on the CPU and a measured one on
    CUDA. Every call has exactly that many rows, padded if need be, so a row's result does not depend, to
    the last bit, on who else is in the batch.

    The scheduler itself costs a problem about 90 us a step (Encode and Backward) over a bare loop, and 30
    us a plain Encode, when 32 problems of one small row share a batch on one core; a row of ViT-B/32 takes
    16 ms there.

    `graph_rows` bounds, for each tower, the rows whose activations are kept between forward and backward;
    what is beyond is computed again. None means two physical batches.

    `check_towers` computes a tower's first batch again before each of its calls and raises ContractError
    out of `as_completed` when it came out differently: for finding the plugin that changes a tower, at
    twice the cost.
    """

    _run_type: ClassVar[type[Run]] = Run

    def __init__(
        self,
        *,
        micro_batch: int | None = None,
        cache: FeatureCache | None = None,
        on_event: Callable[[Event], None] | None = None,
        memo_path: str | os.PathLike[str] | None = None,
        graph_rows: int | None = None,
        check_towers: bool = False,
    ) -> None:
        self._core = Core(
            SafeBatch(micro_batch, memo_path),
            FeatureCache() if cache is None else cache,
            OpenGraphs(graph_rows),
            on_event,
            Canaries() if check_towers else None,
        )
        self._max_live = 4 * (micro_batch or CPU_MICRO_BATCH)

    def encode(
        self,
        tower: Tower,
        rows: Tensor,
        *aux: Tensor,
        row_keys: Sequence[bytes] | None = None,
        session: str | None = None,
    ) -> Tensor:
        """`tower(rows, *aux)` without gradient: float32 `[n, ...]` on the rows' device, through the cache.

        The session is by default that of the problem that calls this, outside of any problem "".
        """

        def problem() -> Problem:
            return (yield Encode(tower, rows.detach(), aux, row_keys))

        value: Tensor = self.run(problem(), session=session)
        return value

    def run(self, problem: Problem, *, session: str | None = None) -> Any:
        """Run one problem to its end and return its value; what it raises is raised."""
        (done,) = self.as_completed([(None, problem)], session=session)
        return done.unwrap()

    def as_completed(
        self,
        problems: Iterable[tuple[Hashable, Problem]],
        *,
        session: str | Callable[[Hashable], str] | None = None,
        priority: int | Callable[[Hashable], int] = 0,
        max_live: int | None = None,
    ) -> Generator[Done, None, None]:
        """Run problems concurrently; yields a `Done` for each as it ends.

        Problems are drawn lazily, at most `max_live` (by default four times the micro-batch) at a time, and a
        `Done` that was not taken yet counts. Higher priorities are served first; within one, sessions get
        equal shares of rows. Both are for all problems, or functions of the tag; the session is by default
        that of the problem that calls this, outside of any problem "".

        A problem's error is in its `Done`. An error of the iterable itself, KeyboardInterrupt and SystemExit
        close every problem and are raised. Closing the iterator cancels what is live.
        """
        if max_live is not None and max_live < 1:
            raise ValueError(f"max_live must be at least 1, not {max_live}")
        if session is None:
            session = "" if self._core.running is None else self._core.running.name
        run = self._run_type(
            self._core,
            problems,
            session=session,
            priority=priority,
            max_live=max_live or self._max_live,
            gather_live=self._max_live,
        )
        return self._drain(run)

    def _drain(self, run: Run) -> Generator[Done, None, None]:
        try:
            while not run.finished:
                while run.out:
                    yield run.out.popleft()
                run.step()
        finally:
            run.close()
            self._core.cache.tick()

    @contextmanager
    def exclusive(self, session: str = "") -> Iterator[None]:
        """Give the device to the caller for a piece of work of its own; its time is counted to the
        session."""
        books = self._core.session(session)
        self._core.graphs.drop_all()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            for each in (books, self._core.total):
                each.seconds += seconds
                each.exclusive_seconds += seconds

    def forget_features(self) -> None:
        """Drop the features that are kept in memory: a tower was found to have changed."""
        self._core.cache.clear()

    def counts(self, session: str | None = None) -> Counts:
        """What a session has cost so far; None for all of them together."""
        books = self._core.total if session is None else self._core.session(session)
        return books.snapshot()
