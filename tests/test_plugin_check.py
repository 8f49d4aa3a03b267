"""`clipsec plugin check` as a user runs it: outcomes, reasons and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipsec.cli import main

MODULE = """
import attrs
from clipsec.protocols import Need
from clipsec.results import Outcome, Verdict

@attrs.frozen
class Options:
    limit: float = 0.5

class Optimist:
    summary, api_version, needs, options, references = "[bold]all is well", "1.0", frozenset(), Options, ()
    def detect(self, context):
        return Verdict(Outcome.CLEAN, "nothing found")
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run the command beside a distribution with a detector that always says clean, and a broken one."""
    site = tmp_path / "site"
    info = site / "acme_hope-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_hope.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-hope\nVersion: 1.0\n")
    points = "[clipsec.detectors]\noptimist = acme_hope:Optimist\nabsent = acme_hope:Nowhere\n"
    (info / "entry_points.txt").write_text(points)
    (info / "RECORD").write_text("acme_hope.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield lambda *arguments: CliRunner().invoke(main, ["plugin", "check", *arguments])
    sys.modules.pop("acme_hope", None)


def test_a_detector_that_always_says_clean_fails(check: Callable[..., Result]) -> None:
    """Exit code 1, and the reason stands beside the check."""
    result = check("optimist", "--json")
    assert result.exit_code == 1
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["plugin"] == "acme-hope/optimist"
    failed = {line["check"]: line["why"] for line in document["checks"] if line["outcome"] == "failed"}
    assert set(failed) == {"positive control"}
    assert "finds no backdoor at all" in failed["positive control"]
    skipped = {line["check"] for line in document["checks"] if line["outcome"] == "skipped"}
    assert skipped == {"cancellation"}


def test_a_loader_of_ours_passes(check: Callable[..., Result]) -> None:
    """Exit code 0, one line a check, and the counts."""
    result = check("open-clip")
    assert result.exit_code == 0, result.output
    assert "damaged files" in result.stdout
    assert " 0 failed" in result.stdout


def test_what_cannot_be_loaded_is_not_a_failed_check(check: Callable[..., Result]) -> None:
    """Exit code 2 with what happened and what to do; an unknown name and a kind without checks are usage."""
    result = check("absent")
    assert result.exit_code == 2
    assert "Nowhere" in result.output
    assert "What to do:" in result.output
    assert check("no-such-plugin").exit_code == 4
    assert check("optimist", "-o", "nonsense").exit_code == 4


def test_without_the_testkit_it_says_how_to_get_it(
    check: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2; a battery from any other distribution does not count."""
    own = entry_points(group="clipsec.testkits")
    assert own
    stranger = SimpleNamespace(dist=SimpleNamespace(name="acme-hope"), load=lambda: lambda *_: iter(()))
    monkeypatch.setattr("clipsec.cli._check.entry_points", lambda group: [stranger])
    result = check("optimist")
    assert result.exit_code == 2
    assert "pip install clipsec-testkit" in result.output
