"""Landlock (Linux 5.13 and later) through ctypes: the kernel refuses what this process may not write.

<https://docs.kernel.org/userspace-api/landlock.html>. It covers the process and all that it starts, needs no
privilege, and cannot be lifted again. It does not cover chmod, chown, utime and extended attributes, nor
connections to sockets that lie in the file system, nor UDP.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE, _REFER = 1 << 1, 1 << 14, 1 << 13
_REMOVE, _MAKE_DIR, _MAKE_FILE = 1 << 4 | 1 << 5, 1 << 7, 1 << 8
_MAKE_OTHER = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
"""Devices, sockets, pipes and symbolic links, which nobody needs in a folder of results."""
_TCP = 1 << 0 | 1 << 1
_ABSTRACT_SOCKETS_AND_SIGNALS = 1 << 0 | 1 << 1


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 when it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, 0, 1))


def restrict_writes(writable: Iterable[str | os.PathLike[str]]) -> bool:
    """From now on, this process writes below these folders only, and opens no TCP connection.

    False when the kernel has no Landlock. Raises `OSError` when it has, and refuses.
    """
    version = landlock_version()
    if version == 0:
        return False
    handled = _WRITE_FILE | _REMOVE | _MAKE_DIR | _MAKE_FILE | _MAKE_OTHER
    handled |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack(
        "=QQQ",
        handled,
        _TCP if version >= 4 else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(_CREATE, attributes, size, 0)
    _check(ruleset)
    try:
        for path in writable:
            _allow(libc, ruleset, path, handled & ~_MAKE_OTHER)
        _allow(libc, ruleset, os.devnull, handled & (_WRITE_FILE | _TRUNCATE))
        _check(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _check(libc.syscall(_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: str | os.PathLike[str], access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, descriptor)
        _check(libc.syscall(_ADD, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
