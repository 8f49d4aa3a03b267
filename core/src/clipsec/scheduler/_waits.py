"""Problems that wait for something outside of the scheduler: the core's own requests, not for plugins."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from clipsec.scheduler._jobs import Job

LONGEST_NAP = 1.0
"""Seconds after which a run with nothing to do looks again, should a file's state have been missed."""


class Channel(Protocol):
    """Something with files that become ready."""

    def files(self) -> dict[int, int]:
        """File numbers and the `select.poll` events that are waited for, at this moment."""
        ...

    def patience(self) -> float:
        """For how many more seconds it is worth holding a batch back for what may come."""
        ...


@attrs.frozen(eq=False)
class Wait:
    """Go on when one of the channel's files is ready. Meanwhile other problems run."""

    channel: Channel


@attrs.define(eq=False)
class Park:
    """Go on when somebody has called `wake`, which may have been before."""

    _woken: bool = False
    _resume: Callable[[], None] | None = None

    def wake(self) -> None:
        """Let the problem go on; at most once."""
        self._woken = True
        if self._resume is not None:
            self._resume()

    def bind(self, resume: Callable[[], None]) -> None:
        """Called by the run that the problem belongs to."""
        if self._woken:
            resume()
        else:
            self._resume = resume


class Waits:
    """The problems of one run that wait for files."""

    def __init__(self, resume: Callable[[Job, Any, BaseException | None], None]) -> None:
        self._resume = resume
        self._waiting: dict[Job, Channel] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def accept(self, job: Job, wait: Wait) -> None:
        self._waiting[job] = wait.channel

    def forget(self, job: Job) -> None:
        self._waiting.pop(job, None)

    def look(self, *, idle: bool) -> bool:
        """Resume the problems whose files are ready; whether there was one.

        With something else to do (not `idle`) this takes as long as a channel says that waiting is worth
        it, since a batch with more rows in it costs the same.
        """
        until = time.monotonic() + LONGEST_NAP if idle else self._patient_until()
        poll, owners = select.poll(), dict[int, "Job"]()
        for job, channel in self._waiting.items():
            for fileno, events in channel.files().items():
                poll.register(fileno, events)
                owners[fileno] = job
        ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
        jobs = dict.fromkeys(owners[fileno] for fileno, _ in ready)
        for job in jobs:
            del self._waiting[job]
            self._resume(job, None, None)
        return bool(jobs)

    def _patient_until(self) -> float:
        return time.monotonic() + max((channel.patience() for channel in self._waiting.values()), default=0.0)
