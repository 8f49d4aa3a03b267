"""Formats of third parties work like ours, and whatever one does costs its own report only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = """
import sys
import attrs
from clipsec.results import Outcome, Verdict

@attrs.frozen
class Options:
    pass

class Finds:
    summary, api_version, needs, options, references = "", "1.0", frozenset(), Options, ()

    def detect(self, context):
        return Verdict(Outcome.FINDING, "looks odd", score=1.0, target="moon orchid")

class Lines:
    summary, api_version, suffix = "one line a check", "1.0", ".txt"

    def render(self, result, folder, *, baseline=None):
        print("printed while rendering")
        known = "no baseline" if baseline is None else f"baseline {baseline.outcome}"
        return "".join(f"{name}: {verdict.outcome}, {known}\\n" for name, verdict in result.verdicts.items())

    def join(self, texts):
        return "".join(texts)

class Old(Lines):
    def render(self, result, folder):
        return f"old: {result.outcome}\\n"

class Raises(Lines):
    def render(self, result, folder):
        raise ValueError("no such luck")

class Exits(Lines):
    def render(self, result, folder):
        sys.exit(0)

class WrongType(Lines):
    def render(self, result, folder):
        return b"bytes"
"""
FORMATS = {"lines": "Lines", "old": "Old", "raises": "Raises", "exits": "Exits", "wrong-type": "WrongType"}


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution with a detector that takes no time and five formats."""
    site = tmp_path / "site"
    info = site / "acme_reports-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_reports.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-reports\nVersion: 1.0\n")
    formats = "\n".join(f"{name} = acme_reports:{attribute}" for name, attribute in FORMATS.items())
    (info / "entry_points.txt").write_text(
        f"[clipsec.detectors]\nfinds = acme_reports:Finds\n[clipsec.reports]\n{formats}\n"
    )
    files = [
        "acme_reports.py",
        *(f"{info.name}/{name}" for name in ("METADATA", "entry_points.txt", "RECORD")),
    ]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("acme_reports", None)


RUN = ("run", "zoo:demo-clean", "--detector", "finds", "-q")


def test_formats_of_third_parties(clipsec_here, third_party: None, tmp_path: Path) -> None:
    """On stdout by bare or full name, in a file, with and without a baseline; each failure costs its own."""
    reports = [f"{name}={name}.txt" for name in FORMATS] + ["sarif=x/clipsec.sarif", "html=page.html"]
    done = clipsec_here(
        *RUN, "--format", "acme-reports/lines", *(word for text in reports for word in ("--report", text))
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == "acme-reports/finds: finding, no baseline\n"
    assert "printed while rendering" in done.stderr
    assert (tmp_path / "old.txt").read_text() == "old: finding\n"
    assert json.loads((tmp_path / "x" / "clipsec.sarif").read_text())["runs"][0]["results"]
    assert "Backdoor found" in (tmp_path / "page.html").read_text()
    for name, told in {
        "raises": "the report format Raises failed: ValueError: no such luck",
        "exits": "the report format Exits failed: SystemExit: 0",
        "wrong-type": "the report format WrongType returned bytes, not a text",
    }.items():
        assert not (tmp_path / f"{name}.txt").exists()
        assert f"{name} report: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = tmp_path.glob("runs/*/run.json")
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes(run.read_bytes())

    again = clipsec_here("report", str(run.parent), "--format", "lines", "--baseline", "baseline.json")
    assert again.returncode == 0
    assert again.stdout == "acme-reports/finds: finding, baseline finding\n"
    failed = clipsec_here("report", str(run.parent), "--format", "raises", "--fail-on", "never")
    assert (failed.returncode, failed.stdout) == (2, "")


def test_a_failed_report_is_no_clean_exit(clipsec_here, third_party: None, tmp_path: Path) -> None:
    """Under --fail-on never too: what was asked for is not there. The run and the other reports are."""
    done = clipsec_here(*RUN, "--fail-on", "never", "--report", "raises=x.txt", "--report", "junit=x.xml")
    assert done.returncode == 2
    assert (tmp_path / "x.xml").exists()
    assert len(list(tmp_path.glob("runs/*/run.json"))) == 1


def test_several_models_one_of_which_cannot_be_loaded(
    clipsec_here, third_party: None, tmp_path: Path
) -> None:
    """The report has a suite with an error for it; a format for one model a file is refused at once."""
    several = ("run", "zoo:demo-clean", "nowhere", "--detector", "finds", "-q")
    refused = clipsec_here(*several, "--report", "html=x.html")
    assert refused.returncode == 4
    assert not (tmp_path / "runs").exists()
    done = clipsec_here(*several, "--report", "junit=x.xml", "--format", "sarif", "--fail-on", "error")
    assert done.returncode == 2
    runs = json.loads(done.stdout)["runs"]
    assert [run["invocations"][0]["executionSuccessful"] for run in runs] == [True, False]
    assert 'errors="2"' in (tmp_path / "x.xml").read_text()


def test_the_only_model_cannot_be_loaded(clipsec_here, tmp_path: Path) -> None:
    """The report is there, and says so; the exit code is 2 whatever --fail-on."""
    done = clipsec_here("run", "nowhere", "-q", "--report", "sarif=x.sarif", "--fail-on", "never")
    assert done.returncode == 2
    (run,) = json.loads((tmp_path / "x.sarif").read_text())["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert "there is no nowhere" in json.dumps(run["invocations"])


def test_a_baseline_among_the_runs_is_refused(clipsec_here, tmp_path: Path) -> None:
    """The audit would overwrite it, and what is new today would be known tomorrow."""
    (tmp_path / "runs" / "old").mkdir(parents=True)
    done = clipsec_here("run", "zoo:demo-clean", "--baseline", "runs/old")
    assert done.returncode == 4
    assert "Copy its run.json somewhere else" in done.stderr
