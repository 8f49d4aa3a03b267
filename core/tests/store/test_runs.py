"""Run folders: safe names, one writer at a time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import attrs
import pytest

from clipsec.errors import ContractError, StoreError
from clipsec.results import GateResult, Outcome, RunResult, SuspectCard, Verdict
from clipsec.store import RunFolder, RunStore, atomic_write, content_key, read_run

KEY = content_key(run=1)


@pytest.mark.parametrize(
    "name", ["clip-b16", "../../etc", "a/b", "", "...", "C:\\x", "\x1b[31mred", "猫", "x" * 999]
)
def test_any_suspect_name_makes_one_folder_inside_the_root(tmp_path, name):
    """A hostile or unusual name cannot leave the root."""
    root = tmp_path / "runs"
    with RunStore(root).open(name, KEY) as run:
        units = run.units(name, KEY)
        units.save("u", {})
    assert run.folder.parent == root
    assert units.folder.resolve().is_relative_to(run.folder.resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in root.iterdir()] == [run.folder.name]


def test_runs_lists_only_those_that_ended(tmp_path):
    """A run without run.json is not finished."""
    store = RunStore(tmp_path)
    ended, killed = store.run("a", KEY), store.run("b", KEY)
    killed.units("d", KEY).save("u", {})
    atomic_write(ended.result_file, b"{}")
    assert store.runs() == [ended]


def test_a_key_must_be_a_content_key(tmp_path):
    """A name or a path as a key is a mistake that would mix up results."""
    with pytest.raises(ContractError):
        RunStore(tmp_path).run("a", "../elsewhere")


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    """Two runs in one folder would overwrite each other; the second gets a clear error at once."""
    run = RunStore(tmp_path).run("a", KEY)
    with (
        run.locked(),
        pytest.raises(StoreError, match=f"process {os.getpid()}") as caught,
        RunStore(tmp_path).run("a", KEY).locked(),
    ):
        pass
    assert "Wait" in caught.value.remedy
    with run.locked():
        pass


HOLDER = """
import sys, time
from pathlib import Path
from clipsec.store import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_releases_the_folder_and_its_litter_goes(tmp_path):
    """SIGKILL leaves no lock to remove by hand, and the next writer removes half-written files."""
    run = RunStore(tmp_path).run("a", KEY)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, run.folder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match=f"process {process.pid}"), run.locked():
        pass
    litter = run.folder / "verdicts" / ".123-abc.tmp"
    litter.parent.mkdir()
    litter.write_bytes(b"half")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with run.locked():
        assert not litter.exists()


def test_files_are_readable_as_the_umask_says(tmp_path):
    """Reports are meant to be shared; a private temporary file must not make them private."""
    before = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a" / "b.json", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b.json").stat().st_mode) == 0o644


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    """Ctrl-C in the middle of a write is passed on, and the old content stays."""
    path = tmp_path / "run.json"
    atomic_write(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_an_error_with_a_remedy(tmp_path):
    """An unusable place is reported as such."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError) as caught:
        atomic_write(tmp_path / "runs" / "run.json", b"")
    assert caught.value.remedy


RESULT = RunResult(
    SuspectCard("m", "d", "clip", "a", "gelu"),
    {"d/x": Verdict(Outcome.FINDING, "found", score=float("inf"))},
    GateResult(True, {}),
    {},
    "2026-01-01T00:00:00+00:00",
    1.0,
    folder="/where/it/was/made",
)


def test_a_result_comes_back_with_the_place_it_lies_at_now(tmp_path):
    """A run folder may be moved; its result then names the new place."""
    with RunStore(tmp_path / "a").open("m", KEY) as run:
        run.write_result(RESULT)
    moved = RunFolder(run.folder.rename(tmp_path / "moved"))
    assert moved.read_result() == attrs.evolve(RESULT, folder=str(moved.folder))


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff", b"NaN"])
def test_a_result_that_cannot_be_read_is_an_error(tmp_path, content):
    """Absent, truncated or foreign: StoreError with a remedy, never a default."""
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        RunFolder(tmp_path).read_result()
    assert caught.value.remedy


def test_a_run_that_was_killed_says_how_it_goes_on(tmp_path):
    """What it finished is there; the same command ends it."""
    run = RunStore(tmp_path).run("a", KEY)
    run.verdict_folder("dist/check", KEY)
    with pytest.raises(StoreError, match="has not ended") as caught:
        read_run(run.folder)
    assert "again" in caught.value.remedy


def test_a_folder_of_runs_is_no_run(tmp_path):
    """The error names one that is."""
    with RunStore(tmp_path).open("m", KEY) as run:
        run.write_result(RESULT)
    with pytest.raises(StoreError, match="is a folder of runs, not a run") as caught:
        read_run(tmp_path)
    assert str(run.folder) in caught.value.remedy


def test_neither_store_nor_reports_import_torch():
    """Rendering a finished run answers at once; torch alone takes seconds to load."""
    code = "import sys, clipsec.store, clipsec.reports, clipsec.results; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
