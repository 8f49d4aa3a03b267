"""Errors on the command line: no traceback unless asked for, and never the exit code of a finding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clipsec.cli import _main, main

VERB = """
import click
from clipsec.errors import UsageError

@click.command()
@click.argument("what")
def fail(what):
    raise {
        "ours": ValueError("wrong shape"),
        "disk": OSError(28, "No space left on device"),
        "memory": MemoryError(),
        "usage": UsageError("no such thing", remedy="Name another."),
    }[what]
"""


@pytest.fixture
def clipsec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command with one verb more, which fails as it is told."""
    (tmp_path / "a_verb_that_fails.py").write_text(VERB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(_main._VERBS, "fail", ("a_verb_that_fails", "fail", "Fail."))

    def run(*arguments: str) -> Result:
        monkeypatch.setattr("sys.argv", ["clipsec", *arguments])
        return CliRunner().invoke(main, arguments)

    return run


def test_a_closed_pipe_is_no_finding() -> None:
    """click ends with 1 when nobody reads what is printed."""
    command = f"set -o pipefail; {sys.executable} -m clipsec list | true"
    assert subprocess.run(["bash", "-c", command], check=False, timeout=60).returncode in (0, 2)


@pytest.mark.parametrize(
    ("what", "said", "remedy"),
    [
        ("ours", "ValueError: wrong shape", "Report it"),
        ("disk", "No space left on device", "Check the disk"),
        ("memory", "too little memory", "Check the disk, the memory"),
    ],
)
def test_an_unexpected_error_is_no_finding(clipsec, what: str, said: str, remedy: str) -> None:
    """Python itself would print a traceback and exit with 1, which reads as a backdoor in CI."""
    done = clipsec("fail", what)
    assert done.exit_code == 2
    assert said in done.stderr
    assert f"What to do: {remedy}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("what", "code"), [("ours", 2), ("usage", 4)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(clipsec, what: str, code: int) -> None:
    """Who looks for a mistake gets the same answer, and more."""
    done = clipsec("--debug", "fail", what)
    assert done.exit_code == code
    assert "Traceback" in done.stderr
    assert "What to do:" in done.stderr
