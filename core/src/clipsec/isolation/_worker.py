"""A worker process as its parent sees it: started, watched, stopped."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from clipsec.errors import ContractError, IsolationError, UsageError
from clipsec.isolation._frames import CHUNK, Frame, Reader, broken, pack
from clipsec.isolation._limits import Limits
from clipsec.isolation._processes import end_all, how_it_ended, leftovers, resident_bytes
from clipsec.protocols import Need
from clipsec.results._plain import decode_plain, encode_plain

LOOK_SECONDS = 0.1
"""Between two looks at a worker's memory and clock."""
PATIENCE = 0.1
"""Seconds for which a batch waits for the rows of a worker that has just been answered. One that takes longer
costs the others this much, once."""
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


@attrs.frozen(kw_only=True)
class Described:
    """What a worker says about the plugin it has imported."""

    needs: frozenset[Need] = frozenset()
    options: dict[str, Any] = attrs.field(factory=dict)
    """The validated options as plain values."""
    status: str = "ok"
    """The registry's status; with anything but `ok` the next two say why."""
    reason: str = ""
    remedy: str = ""
    broken: str = ""
    """What it lacks to be a detector; empty if nothing."""
    by_default: bool = True
    """Whether it runs when no detector is named."""


class Worker:
    """The process of one detector. `close` must be called; nothing of the process outlives it.

    A thread watches memory, clock and output, and stops the process when one is too much; the pipe then
    ends, and `verdict_on_death` says why.
    """

    def __init__(self, name: str, limits: Limits, writable: Sequence[Path] = ()) -> None:
        self.name, self.limits = name, limits
        self.scratch = Path(tempfile.mkdtemp(prefix="clipsec-worker-"))
        self._cause: IsolationError | None = None
        self._output = bytearray()
        self._lock = threading.Lock()
        self._answers = 0
        """Messages sent that the worker has to react to."""
        self._idle_after = -1
        """The worker has nothing to do once it has seen so many."""
        self._answered_at = time.monotonic()
        self._budget, self._used, self._doing = limits.start_seconds, 0.0, "starting"
        self._outbox: deque[memoryview] = deque()
        self._start([self.scratch, *writable])

    def _start(self, writable: Sequence[Path]) -> None:
        theirs_in, self._to_worker = os.pipe()
        self._from_worker, theirs_out = os.pipe()
        self._printed, theirs_printed = os.pipe()
        for fileno in (theirs_in, self._from_worker):
            with contextlib.suppress(OSError):
                fcntl.fcntl(fileno, _F_SETPIPE_SZ, _PIPE_BYTES)
        for fileno in (self._to_worker, self._from_worker, self._printed):
            os.set_blocking(fileno, False)
        self._reader = Reader(self._from_worker, self.limits.message_bytes)
        command = [sys.executable, "-P", "-m", "clipsec.isolation", str(theirs_in), str(theirs_out)]
        try:
            self._process = subprocess.Popen(
                [*command, *(str(Path(path).resolve()) for path in writable)],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=theirs_printed,
                stderr=theirs_printed,
                cwd=self.scratch,
                env=_environment(self.scratch),
                start_new_session=True,
            )
        finally:
            for fileno in (theirs_in, theirs_out, theirs_printed):
                os.close(fileno)
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"watch {self.name}", daemon=True)
        self._watcher.start()

    # Messages

    def send(self, kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Queue a message that the worker has to react to, and write as much as the pipe takes."""
        self._outbox.extend(memoryview(part) for part in pack(kind, fields, tensors) if part)
        with self._lock:
            self._answers += 1
            self._answered_at = time.monotonic()
        self.flush()

    def flush(self) -> None:
        """Write as much as the pipe takes now. A worker that is gone is noticed by `receive`."""
        while self._outbox:
            try:
                written = os.write(self._to_worker, self._outbox[0][:CHUNK])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outbox.clear()
                return
            rest = self._outbox[0][written:]
            if rest:
                self._outbox[0] = rest
            else:
                self._outbox.popleft()

    def receive(self) -> Frame | None:
        """The next message, None when there is none yet.

        Raises `IsolationError` when the worker is gone, `ContractError` for what is no message.
        """
        self.flush()
        try:
            frame = self._reader.read()
            while frame is not None and frame.kind in ("idle", "importing"):
                if frame.kind == "importing" and self._doing == "starting":
                    self.begin("being imported")
                elif frame.kind == "idle":
                    with self._lock:
                        self._idle_after = frame.whole("answers")
                frame = self._reader.read()
        except (EOFError, OSError):
            raise self.verdict_on_death() from None
        return frame

    def files(self) -> dict[int, int]:
        """See `clipsec.scheduler._waits.Channel`."""
        events = {self._from_worker: select.POLLIN}
        if self._outbox:
            events[self._to_worker] = select.POLLOUT
        return events

    def patience(self) -> float:
        """See `clipsec.scheduler._waits.Channel`."""
        with self._lock:
            return self._answered_at + PATIENCE - time.monotonic() if self._busy else 0.0

    @property
    def _busy(self) -> bool:
        return self._idle_after < self._answers

    def wait(self) -> Frame:
        """The next message, however long it takes. For use before there is a scheduler. Raises like
        `receive`."""
        while (frame := self.receive()) is None:
            poll = select.poll()
            for fileno, events in self.files().items():
                poll.register(fileno, events)
            poll.poll(1000)
        return frame

    def ask_to_import(
        self,
        plugin: str,
        values: Mapping[str, Any],
        *,
        lock: Mapping[str, Any] | None = None,
        local: Sequence[str] = (),
    ) -> None:
        """Let the worker confine itself, import the detector of this canonical name, and describe it.

        `values` are its options as the user gave them, `lock` the distributions of the lock in force, `local`
        unpackaged files that hold plugins.
        """
        self.send(
            "import",
            {
                "plugin": plugin,
                "values": encode_plain(values, "options"),
                "lock": None if lock is None else encode_plain(lock, "lock"),
                "local": list(local),
                "memory_bytes": self.limits.memory_bytes,
            },
        )

    def describe(self) -> Described:
        """What the plugin needs and is, once the worker has imported it.

        Raises `IsolationError` when importing it ended or outlasted the worker, `UsageError` for options
        that the plugin does not take, `ContractError` for nonsense.
        """
        frame = self.wait()
        if frame.kind == "usage":
            raise UsageError(frame.text("message"), remedy=frame.text("remedy"))
        if frame.kind != "described":
            raise broken(f"a {frame.kind!r} message in place of the description")
        known = {str(need): need for need in Need}
        unknown = [need for need in frame.texts("needs") if need not in known]
        if unknown:
            raise ContractError(
                f"{self.name} needs {unknown[0]!r}, which no run offers",
                remedy="Install a newer clipsec, or report it to the plugin's author.",
            )
        return Described(
            needs=frozenset(known[need] for need in frame.texts("needs")),
            options=decode_plain(frame.table("options")),
            status=frame.text("status"),
            reason=frame.text("reason"),
            remedy=frame.text("remedy"),
            broken=frame.text("broken"),
            by_default=frame.fields["by_default"] is not False,
        )

    def begin(self, doing: str) -> None:
        """From here on the detector's time limit counts, from zero."""
        with self._lock:
            self._budget, self._used, self._doing = self.limits.seconds, 0.0, doing

    # What becomes of it

    @property
    def output(self) -> str:
        """What was printed so far, at most `limits.output_bytes` of it."""
        with self._lock:
            return bytes(self._output).decode("utf-8", "replace")

    def stop(self, cause: IsolationError) -> None:
        """End the process and all that it started, for a reason that is remembered if it is the first."""
        with self._lock:
            self._cause = self._cause or cause
        end_all(self._process)

    def verdict_on_death(self) -> IsolationError:
        """Why the process is gone."""
        how = how_it_ended(self._process)
        with self._lock:
            if self._cause is not None:
                return self._cause
        return IsolationError(
            f"the detector's process {how} before it gave a verdict",
            remedy="Report this to the plugin's author; what it printed is with the error.",
        )

    def leftovers(self) -> list[str]:
        """Names of processes that the detector has started and that still run."""
        return leftovers(self._process)

    def close(self) -> None:
        """Stop whatever still runs, and remove the scratch folder. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        end_all(self._process)
        self._watcher.join()
        for fileno in (self._to_worker, self._from_worker, self._printed):
            os.close(fileno)
        shutil.rmtree(self.scratch, ignore_errors=True)

    # The watcher's thread

    def _watch(self) -> None:
        before = time.monotonic()
        poll = select.poll()
        poll.register(self._printed, select.POLLIN)
        while not self._closed.is_set():
            if poll.poll(LOOK_SECONDS * 1000) and not self._drain():
                time.sleep(LOOK_SECONDS)  # closed: the worker is gone, or has closed its output
            now = time.monotonic()
            self._tick(now - before)
            before = now
            if self._cause is None and self._process.poll() is None:
                cause = self._excess()
                if cause is not None:
                    self.stop(cause)

    def _drain(self) -> bool:
        try:
            printed = os.read(self._printed, 1 << 16)
        except BlockingIOError:
            return True
        with self._lock:
            room = self.limits.output_bytes - len(self._output)
            self._output += printed[: max(0, room)]
            flooded = len(printed) > room
        if flooded and self._cause is None:
            self.stop(
                IsolationError(
                    f"the detector printed more than {_size(self.limits.output_bytes)}",
                    remedy="Report this to the plugin's author; the beginning of it is with the error.",
                )
            )
        return bool(printed)

    def _tick(self, seconds: float) -> None:
        """Let the worker's clock run, unless it is our turn: it waits, or has said something not read yet."""
        unread = array.array("i", [0])
        fcntl.ioctl(self._from_worker, termios.FIONREAD, unread)
        with self._lock:
            if self._busy and not unread[0]:
                self._used += seconds

    def _excess(self) -> IsolationError | None:
        with self._lock:
            used, budget, doing = self._used, self._budget, self._doing
        if used > budget:
            return IsolationError(
                f"the detector took more than {budget:g} s of its own time for {doing}",
                remedy="Report this to the plugin's author, or allow more with --time-limit SECONDS.",
            )
        memory = resident_bytes(self._process)
        if memory > self.limits.memory_bytes:
            return IsolationError(
                f"the detector used {_size(memory)} of memory, more than {_size(self.limits.memory_bytes)}",
                remedy="Report this to the plugin's author, or allow more with --memory-limit.",
            )
        return None


def _environment(scratch: Path) -> dict[str, str]:
    """The parent's, with every place where libraries like to write led into the scratch folder."""
    places = ("HOME", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    caches = ("MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")
    return {
        **os.environ,
        **dict.fromkeys([*places, *caches], str(scratch)),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
