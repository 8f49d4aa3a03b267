"""What a plugin does to its surroundings while it runs: network, files, child processes, global state."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import torch

_NETWORK = {
    "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname",
    "socket.sendmsg", "socket.sendto",
}  # fmt: skip
_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_active: list[Watch] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # Audit hooks cannot be taken away again, so there is one, which does nothing between watches.
    if _active and (event in _NETWORK or event == "open" or event in _CHANGES):
        _active[-1].see(event, arguments)


def temporary_folder(prefix: str) -> Path:
    """A folder that is removed when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class NetworkBlockedError(ConnectionRefusedError):
    """A plugin under test may not reach the network."""


class Watch:
    """A context in which the network is blocked and what a plugin leaves behind is noted.

    The current folder, the home folder, caches and temporary files are `scratch`, so that writes of native
    code, which Python's audit events do not show, are seen there; `allowed` is where the plugin may write.
    With `own_home` off the home and cache folders stay the user's, for what is known to keep a cache there.
    Everything is put back at the end, and child processes that were left are ended.
    """

    _installed = False

    def __init__(self, scratch: Path, allowed: Path, *, own_home: bool = True) -> None:
        self.network: list[str] = []
        self.writes: list[str] = []
        self.children: list[str] = []
        self.state: list[str] = []
        self._own_home = own_home
        self._scratch, self._allowed = scratch.resolve(), allowed.resolve()
        self._temporary = self._scratch / "tmp"

    def __enter__(self) -> Watch:
        if not Watch._installed:
            sys.addaudithook(_hook)
            Watch._installed = True
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._allowed.mkdir(parents=True, exist_ok=True)
        self._before = _Saved()
        os.chdir(self._scratch)
        tempfile.tempdir = str(self._temporary)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME") if self._own_home else ():
            os.environ[name] = str(self._scratch)
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = str(self._temporary)
        self._there = self._listing()
        self._state = global_state()
        self._threads = set(threading.enumerate())
        self._processes = {child.pid for child in psutil.Process().children(recursive=True)}
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        self._note_processes()
        self._note_threads()
        after = global_state()
        self.state += [name for name, value in self._state.items() if after[name] != value]
        self.writes += sorted(self._listing() - self._there)
        self._before.restore()

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """One audit event of Python's; raises for the network."""
        if event in _NETWORK:
            address = arguments[1] if event.startswith(("socket.b", "socket.c", "socket.s")) else arguments[0]
            if isinstance(address, str | bytes) and event in ("socket.bind", "socket.connect"):
                return  # a Unix socket, which does not leave the machine
            self.network.append(f"{event.removeprefix('socket.')} {address}")
            raise NetworkBlockedError(f"the network is blocked during conformance tests ({address})")
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return
            if mode is not None and not set(mode) & set("wax+"):
                return
            if mode is None and not (flags or 0) & _WRITES:
                return
            self._note_path(path)
        else:
            if event == "os.mkdir" and os.path.isdir(arguments[0]):
                return
            for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
                self._note_path(path)

    def _note_path(self, path: Any) -> None:
        if isinstance(path, int):
            return
        place = Path(os.path.abspath(os.fsdecode(path)))
        if place.suffix == ".pyc" or "__pycache__" in place.parts or place.is_relative_to("/dev"):
            return
        real = Path(os.path.realpath(place.parent)) / place.name
        if not real.is_relative_to(self._allowed) and not real.is_relative_to(self._temporary):
            self.writes.append(str(place))

    def _listing(self) -> set[str]:
        return {
            str(path)
            for path in self._scratch.rglob("*")
            if not path.resolve().is_relative_to(self._allowed) and path != self._temporary
        }

    def _note_processes(self) -> None:
        left = [c for c in psutil.Process().children(recursive=True) if c.pid not in self._processes]
        _, alive = psutil.wait_procs(left, timeout=0.2 if left else 0)
        for child in alive:
            try:
                command = " ".join(child.cmdline())
                # multiprocessing's own helper, which serves the whole program until it ends.
                if "resource_tracker" not in command and child.status() != psutil.STATUS_ZOMBIE:
                    self.children.append(f"process {child.pid} ({command[:80] or child.name()})")
                    child.kill()
            except psutil.NoSuchProcess:
                continue

    def _note_threads(self) -> None:
        left = [thread for thread in threading.enumerate() if thread not in self._threads]
        for thread in left:
            thread.join(timeout=0.2)
            if thread.is_alive():
                self.children.append(f"thread {thread.name}")


def global_state() -> dict[str, Any]:
    """What belongs to the whole program and no plugin may leave changed, as comparable values."""
    numbers = np.random.get_state()
    return {
        "torch's random generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's random generator": (numbers[1].tobytes(), numbers[2]),  # type: ignore[index, union-attr]
        "Python's random generator": random.getstate(),
        "the grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of torch threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the current folder": os.getcwd(),
        "the environment": dict(os.environ),
        "sys.path": list(sys.path),
        "the handler of Ctrl-C": signal.getsignal(signal.SIGINT),
    }


class _Saved:
    """The settings that a plugin may have changed, to be put back."""

    def __init__(self) -> None:
        self._cwd, self._environment = os.getcwd(), dict(os.environ)
        self._temporary, self._path = tempfile.tempdir, list(sys.path)
        self._random = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self._setters: list[Callable[[], Any]] = []
        grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
        deterministic = torch.are_deterministic_algorithms_enabled()
        handler = signal.getsignal(signal.SIGINT)
        self._setters += [
            lambda: torch.set_grad_enabled(grad),
            lambda: torch.set_default_dtype(dtype),
            lambda: torch.set_num_threads(threads) if torch.get_num_threads() != threads else None,
            lambda: torch.use_deterministic_algorithms(deterministic),
        ]
        if threading.current_thread() is threading.main_thread() and handler is not None:
            self._setters.append(lambda: signal.signal(signal.SIGINT, handler))

    def restore(self) -> None:
        os.chdir(self._cwd)
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        tempfile.tempdir, sys.path[:] = self._temporary, self._path
        torch.set_rng_state(self._random[0])
        np.random.set_state(self._random[1])
        random.setstate(self._random[2])
        for put_back in self._setters:
            put_back()
