"""The table of hostile plugins: what each does costs only its own verdict, which is never clean.

Real wheels, installed by pip, run by `clipsec run` beside an honest detector: once with every detector in a
process of its own, once in one process with those that Python alone can contain.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest

from clipsec.results import Outcome, exit_code

from ..test_registry_wheels import BUILD, install, python

FIXTURES = Path(__file__).parent.parent / "fixtures"
SHARED = ("raises_at_import", "exits_at_import", "shadows_first_party", "future_api", "good")
"""Plugins of the registry's own table."""
PICTURES = 8

pytestmark = pytest.mark.slow

Document = dict[str, Any]


@attrs.frozen
class Row:
    """What a plugin does, and what becomes of it."""

    plugin: str
    does: str
    outcome: Outcome
    says: str
    """Part of the verdict's summary, when isolated."""
    here: str | None = None
    """Part of the summary in one process; None where one process cannot contain it."""


def error(plugin: str, does: str, says: str, here: str | None = None) -> Row:
    return Row(plugin, does, Outcome.ERROR, says, here)


def ours(plugin: str, does: str, says: str, here: str | None = None) -> Row:
    return error(f"vendor-misbehaves/{plugin}", does, says, here)


LICENCE = "licensed is failed: RuntimeError: the licence server did not answer"
LEAVER = "leaver is failed: it called sys.exit(3) while being imported"
RESERVED = "the name Clip_Inspector is reserved for clipsec-clip-inspector"
FUTURE = "visionary is incompatible: written for plugin API 99.0"
RESERVED = "the name Clip_Inspector is reserved"
WRONG_TYPE = "returned dict, not a Verdict"
NO_VERDICT = "returned dict, not a Verdict"
TABLE = [
    error("vendor-raises/licensed", "raises at import", LICENCE, LICENCE),
    error("vendor-exits/leaver", "exits at import", LEAVER, LEAVER),
    error("vendor-dead/dead", "ends the process at import", "ended by itself with exit code 0"),
    error("vendor-stuck/stuck", "hangs at import", "more than 20 s of its own time for being imported"),
    Row("helpful-tools/clip-inspector", "shadows a first-party name", Outcome.SKIPPED, RESERVED),
    error("vendor-future/visionary", "wrong API", FUTURE, FUTURE),
    ours("raises", "raises in detect", "ValueError: no such luck", "ValueError: no such luck"),
    ours("exits", "calls sys.exit", "called sys.exit(0)", "called sys.exit(0)"),
    ours("vanishes", "ends the process", "ended by itself with exit code 0"),
    ours("crashes", "crashes in native code", "was killed by SIGSEGV"),
    ours("hangs", "hangs", "more than 20 s of its own time for detecting"),
    ours("allocates", "allocates without bound", "memory"),
    ours("floods", "prints a gigabyte", "printed more than 1.0 MiB"),
    ours("nan", "returns NaN", "score is not a number", "score is not a number"),
    ours("wrong-type", "returns the wrong type", WRONG_TYPE, WRONG_TYPE),
    ours("not-plain", "returns tensors and texts as numbers", "in place of a number", "in place of a number"),
    Row("vendor-misbehaves/mutates", "mutates a tower", Outcome.CLEAN, "all is well"),
    ours("dials", "opens a socket", "used the network"),
    ours("writes", "writes elsewhere", "from_python' for writing"),
    ours("writes-natively", "writes elsewhere, past Python", "the kernel refused"),
    ours("links", "makes a link in its folder", "the kernel refused"),
    ours("leaves-child", "leaves a child process", "left 1 processes running (python"),
    ours("forges", "stores a verdict of its own", "failed after forging", "failed after forging"),
    ours("babbles", "writes rubbish to its parent", "not as agreed"),
]  # fmt: skip
HONEST = ("vendor-misbehaves/honest", "vendor-good/steady", "clipsec-clip-inspector/clip-inspector-plus")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every wheel, built and installed side by side."""
    folder = tmp_path_factory.mktemp("hostile")
    sources = [*(FIXTURES / "hostile").iterdir(), *(FIXTURES / "plugins" / name for name in SHARED)]
    done = python("-c", BUILD, folder / "wheels", *sources)
    assert done.returncode == 0, done.stderr
    install(folder / "site", sorted(folder.glob("wheels/*/*.whl")))
    return folder / "site"


@pytest.fixture(scope="module")
def pool(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pictures."""
    folder = tmp_path_factory.mktemp("pool")
    for path in sorted(pool_folder.rglob("*.jpg"))[:PICTURES]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def run(
    site: Path, pool: Path, elsewhere: Path, environment: dict[str, str]
) -> Callable[..., tuple[int, Document, str]]:
    """`clipsec run` in the folder of the site: exit code, JSON, stderr."""
    inherited = {key: value for key, value in environment.items() if key != "CLIPSEC_LOCK"}
    own = {"PYTHONPATH": str(site), "HOSTILE_ELSEWHERE": str(elsewhere)}

    def run(*arguments: str) -> tuple[int, Document, str]:
        command = ["run", "zoo:demo-clean", "--pool", str(pool), "--format", "json", *arguments]
        done = subprocess.run(
            [sys.executable, "-m", "clipsec", *command],
            env={**inherited, **own},
            cwd=site.parent,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.stdout.startswith("{"), done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


@pytest.fixture(scope="module")
def isolated(run: Callable[..., tuple[int, Document, str]]) -> tuple[int, Document, str]:
    """Everything that is installed, each in a process of its own."""
    limits = ("--time-limit", "20", "--memory-limit", "1")
    # Ours run too; one class and one family of probes, as this is about the others.
    few = {"clip-inspector-plus.candidates": "moon orchid", "clip-inspector-plus.families": "warp"}
    options = (word for name, value in few.items() for word in ("-o", f"{name}={value}"))
    return run("--isolate", *limits, *options, "--runs", "isolated")


@pytest.fixture(scope="module")
def together(run: Callable[..., tuple[int, Document, str]]) -> tuple[int, Document, str]:
    """Those that one process contains, in one."""
    names = [row.plugin for row in TABLE if row.here is not None] + [HONEST[0]]
    return run("--runs", "together", *(word for name in names for word in ("--detector", name)))


def test_the_table_is_complete(isolated: tuple[int, Document, str]) -> None:
    """Every installed detector has a row, is one of the honest ones, or is ours."""
    ours = {name for name in isolated[1]["verdicts"] if name.startswith("clipsec-")} - set(HONEST)
    assert set(isolated[1]["verdicts"]) - ours == {row.plugin for row in TABLE} | set(HONEST)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.does)
def test_isolated(isolated: tuple[int, Document, str], row: Row) -> None:
    """Its own verdict says what happened and what to do, and beside a clean one its exit code is that of an
    error. Only what harms nobody is no error: a tower it cannot reach, a name it does not get."""
    verdict = isolated[1]["verdicts"][row.plugin]
    assert verdict["outcome"] == row.outcome
    assert row.says in verdict["summary"]
    code = exit_code([Outcome(verdict["outcome"]), Outcome.CLEAN])
    assert code == (2 if row.outcome is Outcome.ERROR else 0)
    if row.outcome is Outcome.ERROR:
        assert verdict["error"]["remedy"]


@pytest.mark.parametrize("row", [row for row in TABLE if row.here], ids=lambda row: row.does)
def test_in_one_process(together: tuple[int, Document, str], row: Row) -> None:
    """What Python can contain is contained without a process too."""
    verdict = together[1]["verdicts"][row.plugin]
    assert verdict["outcome"] == Outcome.ERROR
    assert row.here in verdict["summary"]
    assert verdict["error"]["remedy"]


def test_the_others_stand(isolated: tuple[int, Document, str], together: tuple[int, Document, str]) -> None:
    """The honest detector says the same, to the last bit, at the same number of rows, among two dozen hostile
    ones in processes and in one process; the command's exit code is that of an error."""
    apart, beside = (document["verdicts"][HONEST[0]] for _, document, _ in (isolated, together))
    assert apart["outcome"] == beside["outcome"] == "clean"
    assert apart["score"] == beside["score"]
    assert apart["cost"]["backward_rows"] == beside["cost"]["backward_rows"] == 8
    assert isolated[1]["verdicts"][HONEST[1]]["outcome"] == "clean"
    inspected = isolated[1]["verdicts"][HONEST[2]]
    assert inspected["outcome"] == "inconclusive", f"eight pictures say little: {inspected['summary']}"
    assert (isolated[0], together[0]) == (2, 2)


def test_nothing_is_left(isolated: tuple[int, Document, str], elsewhere: Path) -> None:
    """No file elsewhere, no process, nothing of the gigabyte on the terminal."""
    assert list(elsewhere.iterdir()) == []
    mark = "left-by-a-hostile-plugin"
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])] == []
    assert len(isolated[2]) < 20_000
    assert "\033" not in isolated[2]


def test_a_forged_verdict_is_not_believed(
    isolated: tuple[int, Document, str], run: Callable[..., tuple[int, Document, str]], site: Path
) -> None:
    """Run again, the honest verdict is the stored one; the forger, who left a verdict in its own folder, is
    asked again and fails again."""
    answers = {path: path.stat().st_mtime_ns for path in site.parent.glob("isolated/*/answers/*honest*/*/*")}
    assert answers
    names = ("--detector", "vendor-misbehaves/forges", "--detector", HONEST[0])
    code, document, _ = run("--isolate", "--runs", "isolated", *names)
    assert code == 2
    assert document["verdicts"]["vendor-misbehaves/forges"]["outcome"] == "error"
    assert document["verdicts"][HONEST[0]] == isolated[1]["verdicts"][HONEST[0]]
    assert {path: path.stat().st_mtime_ns for path in answers} == answers


def test_a_tower_changed_in_one_process_is_noticed(run: Callable[..., tuple[int, Document, str]]) -> None:
    """Whoever may have seen the changed weights is an error, the honest one too; nothing of it is stored."""
    names = ("--detector", "vendor-misbehaves/mutates", "--detector", HONEST[0])
    code, document, _ = run("--runs", "mutated", *names)
    assert code == 2
    for verdict in document["verdicts"].values():
        assert verdict["outcome"] == "error"
        assert "was changed in memory" in verdict["summary"]
        assert "--isolate" in verdict["error"]["remedy"]
