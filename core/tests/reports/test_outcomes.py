"""In every format, only a clean run reads as clean: over all combinations of outcomes and gates."""

from __future__ import annotations

import io
import itertools
import json

import pytest
from rich.console import Console

from clipsec.reports import render_console, render_html, render_json, render_junit, render_sarif
from clipsec.reports._words import WORDS
from clipsec.results import ErrorRecord, GateResult, Outcome, Verdict

COMBINATIONS = [
    combination for size in range(4) for combination in itertools.combinations_with_replacement(Outcome, size)
]
CODES = {"clean": 0, "finding": 1, "error": 2, "inconclusive": 2, "skipped": 3}
PASSES = (WORDS[Outcome.CLEAN].headline, WORDS[Outcome.CLEAN].symbol, "Exit code 0")


def a_verdict(outcome):
    error = ErrorRecord("ValueError", "boom", "Mend it.") if outcome is Outcome.ERROR else None
    return Verdict(outcome, "what the detector says", error=error)


@pytest.fixture(params=[True, False], ids=["gate passed", "gate failed"])
def gate(request):
    return GateResult(request.param, {}, "" if request.param else "zero-shot accuracy 0.04")


@pytest.fixture(params=COMBINATIONS, ids=lambda combination: "+".join(combination) or "none")
def result(request, samples, gate):
    verdicts = {f"dist/d{position}": a_verdict(outcome) for position, outcome in enumerate(request.param)}
    return samples.run(verdicts, gate=gate)


def is_clean(result):
    outcomes = {str(verdict.outcome) for verdict in result.verdicts.values()}
    return result.gate.passed and "clean" in outcomes and outcomes <= {"clean", "skipped"}


def test_html(result, folder, read_page):
    """Banner and sections carry the outcome in words; words and sign of a pass for clean only."""
    page = read_page(render_html(result, folder))
    banner = page.one("section", data_outcome=str(result.outcome), data_exit_code=str(result.exit_code))
    heading = page.one("h1").text
    assert heading in banner.text
    assert any(mark in banner.text for mark in PASSES) is is_clean(result)
    assert banner.attrs["class"] == f"banner {result.outcome}"
    assert (CODES[str(result.outcome)] == 0) is is_clean(result)
    sections = page.all("article")
    assert [section.attrs["data-outcome"] for section in sections] == [
        str(verdict.outcome) for verdict in result.verdicts.values()
    ]
    for section, verdict in zip(sections, result.verdicts.values()):
        assert WORDS[verdict.outcome].label in section.text
        assert (WORDS[Outcome.CLEAN].symbol in section.text) is (verdict.outcome is Outcome.CLEAN)
    assert ("boom" in "".join(section.text for section in sections)) is any(
        verdict.outcome is Outcome.ERROR for verdict in result.verdicts.values()
    )
    title = page.one("title").text
    assert title.startswith(heading)
    assert bool(page.all(id="gate-failed")) is not result.gate.passed


def test_console(result):
    """The first line says it, the last line has the exit code, each check's line its own outcome."""
    out = io.StringIO()
    render_console(result, Console(file=out, width=100))
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    assert any(mark in lines[0] for mark in PASSES) is is_clean(result)
    assert lines[-1].startswith(f"Exit code {CODES[str(result.outcome)]}:")
    for position, verdict in enumerate(result.verdicts.values()):
        (line,) = (line for line in lines if line.startswith(f"d{position} "))
        assert WORDS[verdict.outcome].label in line
        assert (WORDS[Outcome.CLEAN].symbol in line) is (verdict.outcome is Outcome.CLEAN)
    if "error" in (verdict.outcome for verdict in result.verdicts.values()):
        assert "What to do: Mend it." in out.getvalue()


def test_json(result):
    """Outcome and exit code of the document are those of the run."""
    document = json.loads(render_json(result))
    assert document["exit_code"] == CODES[document["outcome"]]
    assert (document["outcome"] == "clean") is is_clean(result)


KINDS = {"clean": "pass", "finding": "fail", "inconclusive": "open", "skipped": "notApplicable"}
LEVELS = {"error": "error", "inconclusive": "warning", "skipped": "note"}


def test_sarif(result, read_sarif):
    """A pass for clean only; a notification for whatever has no answer; success only if all answered."""
    run = read_sarif(render_sarif(result))
    outcomes = [str(verdict.outcome) for verdict in result.verdicts.values()]
    assert [found["kind"] for found in run["results"]] == [KINDS[o] for o in outcomes if o in KINDS]
    for found in run["results"]:
        assert found["level"] == ("error" if found["kind"] == "fail" else "none")
        assert found["properties"]["outcome"] == {kind: name for name, kind in KINDS.items()}[found["kind"]]
    (invocation,) = run["invocations"]
    assert invocation["exitCode"] == result.exit_code
    told = {
        (note["associatedRule"]["index"], note["level"])
        for note in invocation["toolExecutionNotifications"]
        if "associatedRule" in note
    }
    assert told == {(index, LEVELS[o]) for index, o in enumerate(outcomes) if o in LEVELS}
    answered = {"clean", "finding"} & set(outcomes) and not {"error", "inconclusive"} & set(outcomes)
    assert invocation["executionSuccessful"] is (result.gate.passed and bool(answered))
    if is_clean(result):
        assert invocation["executionSuccessful"]


TROUBLE = ("failure", "error", "skipped")


def test_junit(result, read_junit):
    """A test case that passes for each clean check, and no suite without trouble unless the run is clean."""
    (suite,) = read_junit(render_junit(result))
    cases = suite.findall("testcase")
    passed = [case.get("name") for case in cases if all(case.find(tag) is None for tag in TROUBLE)]
    clean = [f"d{i}" for i, verdict in enumerate(result.verdicts.values()) if verdict.outcome.is_pass]
    assert passed == clean
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    assert counts["tests"] == len(cases)
    assert (counts["failures"] + counts["errors"] == 0) is is_clean(result)
    finding = [verdict for verdict in result.verdicts.values() if verdict.outcome is Outcome.FINDING]
    assert counts["failures"] == len(finding)


def test_words_of_a_pass_belong_to_clean_alone():
    """No two outcomes share a label, headline or sign, and no other wording contains that of a pass."""
    for field in ("label", "headline", "symbol", "style"):
        assert len({getattr(words, field) for words in WORDS.values()}) == len(Outcome)
    for outcome, words in WORDS.items():
        if outcome is not Outcome.CLEAN:
            assert "clean" not in f"{words.label} {words.headline}".lower()
            assert "green" not in words.style
