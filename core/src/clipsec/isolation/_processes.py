"""A worker's processes: the launcher, the worker below it, and whatever that has started."""

from __future__ import annotations

import contextlib
import signal
import subprocess

import psutil

END_SECONDS = 5.0
"""From asking the launcher to end to killing it."""

Launcher = subprocess.Popen[bytes]


def end_all(launcher: Launcher) -> None:
    """SIGTERM makes the launcher kill everything below it; SIGKILL is for a launcher that is stuck."""
    tree = _tree(launcher)
    if launcher.poll() is None:
        launcher.send_signal(signal.SIGTERM)
        try:
            launcher.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()
    for process in tree:
        with contextlib.suppress(psutil.Error):
            process.kill()


def how_it_ended(launcher: Launcher) -> str:
    """`was killed by SIGKILL`, `ended by itself with exit code 3`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(END_SECONDS)
    code = launcher.returncode
    if code is None:
        return "closed its pipe"
    if code < 0 or code > 128:
        return f"was killed by {_signal_name(-code if code < 0 else code - 128)}"
    return f"ended by itself with exit code {code}"


def leftovers(launcher: Launcher) -> list[str]:
    """Names of processes that the worker has started and that still run."""
    return sorted(_name(process) for process in _tree(launcher)[2:])


def resident_bytes(launcher: Launcher) -> int:
    """Memory of all of them together."""
    return sum(map(_resident, _tree(launcher)))


def _tree(launcher: Launcher) -> list[psutil.Process]:
    """The launcher, the worker, and whatever that has started; orphans stay below one of the two."""
    try:
        root = psutil.Process(launcher.pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        # In proportion where it is known: a child between fork and exec would count its parent's memory
        # again, and PyTorch's libraries (half a gigabyte) are there once for all processes.
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.Error:
        return 0


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "?"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
