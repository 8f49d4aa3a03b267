"""What a kill costs: nothing that was finished, and never the verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsec.results import Verdict
from clipsec.store import RunStore

# One step a class, as a class is what is stored: too little for a verdict that means anything.
SHORT = ("-o", "clip-inspector.max_pictures=32")
COMMAND = ("run", "zoo:demo-badclip", "--detector", "clip-inspector", "--runs", "runs", "-q", *SHORT)


def start(folder: Path, environment: dict[str, str], cache: Path) -> subprocess.Popen[bytes]:
    """Start an audit whose runs and cache lie in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "clipsec", *COMMAND],
        cwd=folder,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Audits that were started; none outlives the test, however it ends."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(30)


def finished_units(folder: Path) -> set[Path]:
    return set(folder.glob("runs/*/verdicts/*/*/units/*.json"))


def verdict_of(folder: Path) -> Verdict:
    (run,) = RunStore(folder / "runs").runs()
    (verdict,) = run.read_result().verdicts.values()
    return verdict


@pytest.mark.slow
def test_killed_anywhere_it_resumes_to_the_same_verdict(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    """SIGKILL after the first, the third and the sixth finished class: what is stored is not computed again,
    and the verdict equals that of a run nobody touched, to the last bit."""
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
    # The run that is killed gets a cache of its own: it must not find the calm run's nulls there.
    calm_process = start(calm, environment, tmp_path / "cache-calm")
    started.append(calm_process)
    cache = tmp_path / "cache-killed"
    for classes in (1, 3, 6):
        started.append(process := start(killed, environment, cache))
        deadline = time.monotonic() + 240
        while len(finished_units(killed)) < classes and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert not list(killed.glob("runs/*/run.json")), "an unfinished run has no result"
    before = {path: path.stat().st_mtime_ns for path in finished_units(killed)}
    assert len(before) >= 6
    started.append(process := start(killed, environment, cache))
    assert process.wait(240) in (0, 1, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert calm_process.wait(240) in (0, 1, 2)
    resumed, undisturbed = verdict_of(killed), verdict_of(calm)
    assert (resumed.outcome, resumed.target, resumed.score) == (
        undisturbed.outcome,
        undisturbed.target,
        undisturbed.score,
    )
    assert [e.measures for e in resumed.evidence] == [e.measures for e in undisturbed.evidence]
    assert resumed.cost.backward_rows < undisturbed.cost.backward_rows
