"""What a worker process may do, arranged by itself before it imports a plugin.

Two processes: a launcher that runs no plugin code, and below it the worker. Where the kernel permits it, the
worker is the first process of a PID namespace, so that everything it starts dies with it, and has a network
namespace without any interface. Elsewhere the launcher adopts and kills what the worker leaves behind.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from clipsec.isolation._landlock import restrict_writes

_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_DEATH_SIGNAL, _SUBREAPER = 1, 36
_HEADROOM = 1 << 30
"""Address space that is only reserved: arenas and stacks of threads."""


def launch(work: Callable[[], NoReturn]) -> NoReturn:
    """Fork; the child calls `work`, this process waits, kills what is left, and ends as the child ended."""
    linux = sys.platform.startswith("linux")
    if linux:
        _prctl(_DEATH_SIGNAL, signal.SIGKILL)
        _prctl(_SUBREAPER, 1)
        _unshare()
    child = os.fork()
    if child == 0:
        if linux:
            _prctl(_DEATH_SIGNAL, signal.SIGKILL)
        work()

    def ended(signum: int, frame: object) -> None:
        _kill(child)
        _kill_orphans()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, ended)
    _, status = os.waitpid(child, 0)
    _kill_orphans()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _unshare() -> None:
    """As much of it as the kernel permits: a user namespace first, which gives up root's powers as well."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_NET | _NEW_PID) == 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    elif libc.unshare(_NEW_NET | _NEW_PID) != 0:
        libc.unshare(_NEW_NET)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:
        return


def _kill_orphans() -> None:
    """Kill and reap every child of this process until there is none; each may leave others behind."""
    while True:
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if done == 0:
            children = _children()
            if not children:
                return  # the kernel does not say which
            for child in children:
                _kill(child)


def _children() -> list[int]:
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [int(child) for child in listed]
    except OSError:
        return []


def confine(writable: Sequence[Path], memory_bytes: int) -> None:
    """Bound this process's memory and where it may write, and watch for what no detector does.

    The kernel's part (Landlock, resource limits) cannot be undone. The audit hook sees Python's calls only:
    it finds out honest mistakes and says what they were, it does not hold an attacker.
    """
    restrict_writes(writable)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_FSIZE, memory_bytes)
    size, data = _address_space()
    if size:
        _limit(resource.RLIMIT_AS, size + memory_bytes + _HEADROOM)
        _limit(resource.RLIMIT_DATA, data + memory_bytes)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> tuple[int, int]:
    """Bytes of address space and of private data that this process has now; 0 where that is not known."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(fields[0]) * page, int(fields[5]) * page


_SOCKETS = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
_CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.symlink": (1,),
    "os.link": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
    "os.setxattr": (0,), "os.removexattr": (0,),
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(writable: Sequence[Path]) -> list[str]:
    """Refuse sockets, and changes outside of `writable`; the list is what was refused, as it goes on."""
    allowed = [os.path.realpath(path) for path in writable]
    refused: list[str] = []

    def outside(path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        place = os.path.realpath(os.fsdecode(path))
        if place == os.devnull:
            return False
        return not any(place == root or place.startswith(root + os.sep) for root in allowed)

    def refuse(what: str) -> None:
        if len(refused) < 100:
            refused.append(what)
        raise PermissionError(f"an isolated detector may not do this: it {what}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and outside(path):
                refuse(f"opened {os.fsdecode(path)!r} for writing")
        elif event in _CHANGES:
            for place in _CHANGES[event]:
                path = arguments[place]
                # Folders that exist are often "made" once more, which changes nothing.
                if outside(path) and not (event == "os.mkdir" and os.path.isdir(path)):
                    refuse(f"changed {os.fsdecode(path)!r}")
        elif event in _SOCKETS:
            refuse(f"used the network ({event})")

    sys.addaudithook(hook)
    return refused
