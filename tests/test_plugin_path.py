"""`--plugin-path FILE`: a detector from one file runs beside the others, and every report says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

FILE = """
import attrs
from clipsec.results import Outcome, Verdict

@attrs.frozen
class Options:
    pass

class Mine:
    summary, api_version, needs, options, references = "counts its runs", "1.0", frozenset(), Options, ()

    def detect(self, context):
        again = context.units.load("part") or context.shared.load("part")
        context.units.save("part", {})
        context.shared.save("part", {})
        with open("ran", "a") as ran:
            ran.write("x")
        outcome = Outcome.CLEAN if again is None else Outcome.FINDING
        return Verdict(outcome, "nothing was left over", score=1.0)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def run(clipsec, *more: str):
    return clipsec("run", "zoo:demo-clean", "--detector", "local/mine", "--plugin-path", "mine.py", *more)


def test_it_is_flagged_in_every_format_and_never_reused(clipsec_here, file: Path, tmp_path: Path) -> None:
    """Two runs compute twice, with no part left over; console, JSON and HTML name the file's sha256."""
    console = run(clipsec_here)
    assert console.returncode == 0, console.stderr
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    words = " ".join(console.stdout.split())
    assert "local/mine" in words
    assert f"from an unpackaged file (sha256:{sha256[:12]}), not an installed plugin" in words
    (page,) = tmp_path.glob("runs/*/report.html")
    assert f"from an unpackaged file (sha256:{sha256[:12]})" in page.read_text()

    again = json.loads(run(clipsec_here, "--format", "json").stdout)
    verdict = again["verdicts"]["local/mine"]
    assert verdict["outcome"] == "clean"
    assert verdict["provenance"]["distribution"] == "local"
    assert verdict["provenance"]["version"] == f"sha256:{sha256}"
    assert verdict["notes"][0].startswith("local check: ")
    assert (tmp_path / "ran").read_text() == "xx"
    assert not list(tmp_path.glob("runs/*/verdicts/*/*/units/*"))


def test_it_is_refused_under_a_lock(clipsec, file: Path, tmp_path: Path) -> None:
    """A lock lists distributions, so the file is not run, and the run does not go on without it."""
    assert clipsec("plugin", "trust", "clipsec-zoo").returncode == 0
    done = run(clipsec)
    assert done.returncode == 4
    assert "mine.py is an unpackaged file" in done.stderr
    assert "clipsec plugin new" in done.stderr
    listed = clipsec("list", "--plugin-path", "mine.py", "--json")
    rows = {row["canonical_name"]: row for row in json.loads(listed.stdout)["plugins"]}
    assert (rows["local/mine"]["status"], rows["local/mine"]["local"]) == ("untrusted", True)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_fails_is_an_error(clipsec_here, file: Path) -> None:
    """One that cannot be imported is an error verdict; one that is not there is a usage error."""
    file.write_text("raise OSError('no licence')\n" + FILE)
    done = run(clipsec_here)
    assert done.returncode == 2
    assert "no licence (mine.py:1)" in " ".join(done.stdout.split())
    file.unlink()
    assert run(clipsec_here).returncode == 4


@pytest.mark.parametrize("isolate", [False, True], ids=["in process", "isolated"])
def test_its_author_is_told_to_mend_it(clipsec_here, file: Path, tmp_path: Path, isolate: bool) -> None:
    """What an unpackaged file raises is an error of its own, and nobody is sent to a stranger."""
    file.write_text(FILE.replace("again = context", "again = contekst"))
    more = ("--isolate", "local/mine") if isolate else ()
    done = run(clipsec_here, "-q", "--report", "json=run.json", *more)
    assert done.returncode == 2
    (verdict,) = json.loads((tmp_path / "run.json").read_text())["verdicts"].values()
    assert verdict["error"]["type"] == "NameError"
    assert "contekst" in verdict["error"]["traceback"]
    assert verdict["error"]["remedy"].startswith("Mend the file")
