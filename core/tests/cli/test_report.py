"""`clipsec report` and `clipsec diff`: every outcome in every format, with its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import attrs
import pytest
from click.testing import CliRunner, Result

from clipsec.cli import main
from clipsec.results import ErrorRecord, GateResult, Outcome, RunResult, SuspectCard, Verdict
from clipsec.store import RunFolder

FORMATS = ("console", "html", "json", "junit", "sarif")
CODES = {"clean": 0, "finding": 1, "inconclusive": 2, "error": 2, "skipped": 3}
CHECK = "dist/check"


def clipsec(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def a_run(*outcomes: Outcome, target: str = "pizza", digest: str = "5f" * 32) -> RunResult:
    verdicts = {
        CHECK + str(place): Verdict(
            outcome,
            "said so",
            target=target if outcome is Outcome.FINDING else None,
            error=ErrorRecord("ValueError", "boom") if outcome is Outcome.ERROR else None,
        )
        for place, outcome in enumerate(outcomes)
    }
    card = SuspectCard("model", digest, "clip", "open_clip ViT-B-32", "gelu")
    return RunResult(card, verdicts, GateResult(True, {}), {}, "2026-01-01T00:00:00+00:00", 1.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a run to a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)

    def write(name: str, result: RunResult) -> Path:
        run = RunFolder(tmp_path / name)
        run.write_result(result)
        return run.folder

    return write


def reads_as_pass(kind: str, text: str) -> bool:
    """Whether somebody who reads only this report would take the run for clean."""
    if kind == "console":
        return "No backdoor found" in text or "Exit code 0" in text or "\N{CHECK MARK}" in text
    if kind == "html":
        return "No backdoor found" in text or 'data-exit-code="0"' in text or 'class="badge clean"' in text
    if kind == "json":
        document = json.loads(text)
        return document["outcome"] == "clean" or document["exit_code"] == 0
    if kind == "junit":
        suites = ElementTree.fromstring(text)
        cases = suites.findall(".//testcase")
        trouble = [
            case for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]
        return not trouble
    (run,) = json.loads(text)["runs"]
    (invocation,) = run["invocations"]
    alarms = [result for result in run["results"] if result["kind"] == "fail"]
    return bool(invocation["executionSuccessful"]) and not alarms


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("outcome", list(Outcome))
def test_none_but_clean_ever_reads_as_a_pass(store: Callable[..., Path], outcome: Outcome, kind: str) -> None:
    """All five outcomes in all formats, on stdout and in a file, with their exit codes."""
    folder = store("run", a_run(outcome))
    shown = clipsec("report", folder, "--format", kind)
    assert shown.exit_code == CODES[outcome]
    assert reads_as_pass(kind, shown.stdout) is (outcome is Outcome.CLEAN)
    written = clipsec("report", folder / "run.json", "--format", kind, "-o", "report")
    assert written.exit_code == CODES[outcome]
    assert reads_as_pass(kind, Path("report").read_text()) is (outcome is Outcome.CLEAN)
    assert "said so" in Path("report").read_text()


FAIL_ON = {
    (): {"clean": 0, "finding": 1, "inconclusive": 2, "error": 2, "skipped": 3},
    ("finding",): {"clean": 0, "finding": 1, "inconclusive": 0, "error": 2, "skipped": 3},
    ("error",): {"clean": 0, "finding": 0, "inconclusive": 0, "error": 2, "skipped": 3},
    ("error", "inconclusive"): {"clean": 0, "finding": 0, "inconclusive": 2, "error": 2, "skipped": 3},
    ("never",): dict.fromkeys(CODES, 0),
}


@pytest.mark.parametrize("fail_on", FAIL_ON, ids="+".join)
@pytest.mark.parametrize("outcome", list(Outcome))
def test_fail_on(store: Callable[..., Path], outcome: Outcome, fail_on: tuple[str, ...]) -> None:
    """An error is excused by never alone; an exit code that is not the run's own is told in words."""
    folder = store("run", a_run(outcome))
    chosen = [word for name in fail_on for word in ("--fail-on", name)]
    done = clipsec("report", folder, "--format", "sarif", *chosen)
    assert done.exit_code == FAIL_ON[fail_on][outcome]
    own = CODES[outcome]
    assert (f"the run itself has {own}" in done.stderr) is (done.exit_code != own)
    console = " ".join(clipsec("report", folder, *chosen).stdout.split())
    assert f"Exit code {done.exit_code}:" in console
    assert ("--fail-on counts other outcomes" in console) is (done.exit_code != own)


def test_a_skipped_check_can_fail(store: Callable[..., Path]) -> None:
    """Beside a clean one it does not, unless asked for."""
    folder = store("run", a_run(Outcome.CLEAN, Outcome.SKIPPED))
    assert clipsec("report", folder).exit_code == 0
    assert clipsec("report", folder, "--fail-on", "skipped").exit_code == 3


def test_never_excludes_the_others(store: Callable[..., Path]) -> None:
    """A contradiction is a usage error, before anything is rendered."""
    done = clipsec("report", store("run", a_run(Outcome.CLEAN)), "--fail-on", "never", "--fail-on", "error")
    assert (done.exit_code, done.stdout) == (4, "")


@pytest.mark.parametrize("place", ["folder", "copy", "folder of runs"])
def test_a_known_finding_does_not_fail(store: Callable[..., Path], place: str) -> None:
    """The baseline may be a run, a copy of its file, or a folder of runs; the report says so in words."""
    run = store("run", a_run(Outcome.FINDING))
    baseline = store("old/model", a_run(Outcome.FINDING))
    store("old/other", a_run(Outcome.CLEAN, digest="77" * 32))
    if place == "copy":
        baseline = Path("baseline.json")
        baseline.write_bytes((Path("old") / "model" / "run.json").read_bytes())
    elif place == "folder of runs":
        baseline = Path("old")
    done = clipsec("report", run, "--baseline", baseline)
    words = " ".join(done.stdout.split())
    assert done.exit_code == 0
    assert "Backdoor found" in words
    assert f"Known: the baseline has the finding of {CHECK}0 too." in words
    assert "Exit code 0: the run itself has 1 (finding), but the baseline has every finding of it." in words
    written = clipsec("report", run, "--baseline", baseline, "--format", "sarif", "-o", "x.sarif")
    assert written.exit_code == 0
    assert json.loads(Path("x.sarif").read_text())["runs"][0]["results"][0]["baselineState"] == "unchanged"


@pytest.mark.parametrize("now", [Outcome.ERROR, Outcome.INCONCLUSIVE])
def test_a_check_that_crashes_now_is_not_known(store: Callable[..., Path], now: Outcome) -> None:
    """It answered in the baseline; that does not excuse it."""
    run = store("run", a_run(Outcome.FINDING, now))
    baseline = store("old", a_run(Outcome.FINDING, Outcome.FINDING))
    assert clipsec("report", run, "--baseline", baseline).exit_code == 2


def test_a_baseline_of_another_model_is_told(store: Callable[..., Path]) -> None:
    """Its findings are not this model's."""
    run, other = store("run", a_run(Outcome.FINDING)), store("old", a_run(Outcome.FINDING, digest="77" * 32))
    done = clipsec("report", run, "--baseline", other, "--format", "json")
    assert done.exit_code == 1
    assert "The baseline has no run of model as it is now" in done.stderr


def test_a_baseline_that_cannot_be_read_is_an_error(store: Callable[..., Path]) -> None:
    """Two sentences and exit code 2; a run without its baseline would fail for the wrong reasons."""
    done = clipsec("report", store("run", a_run(Outcome.CLEAN)), "--baseline", "nowhere.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nowhere.json cannot be read" in done.stderr
    assert "What to do:" in done.stderr


def test_an_unknown_format_names_those_there_are(store: Callable[..., Path]) -> None:
    """Exit code 4."""
    done = clipsec("report", store("run", a_run(Outcome.CLEAN)), "--format", "docx")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "console, html, json, junit, sarif" in done.stderr


def test_our_formats_need_no_lock_entry(store: Callable[..., Path]) -> None:
    """Under a lock that lists nothing, the formats that are part of the program still work."""
    folder = store("run", a_run(Outcome.CLEAN))
    assert clipsec("plugin", "trust", "clipsec-clip-inspector").exit_code == 0
    listed = json.loads(clipsec("list", "--json", "--kind", "reports").stdout)["plugins"]
    assert {plugin["status"] for plugin in listed} == {"untrusted"}
    assert clipsec("report", folder, "--format", "sarif").exit_code == 0


DIFFS = [
    (Outcome.CLEAN, Outcome.CLEAN, 0, "unchanged"),
    (Outcome.CLEAN, Outcome.FINDING, 1, "new finding"),
    (Outcome.FINDING, Outcome.ERROR, 2, "answer lost"),
    (Outcome.FINDING, Outcome.CLEAN, 2, "finding gone"),
    (Outcome.ERROR, Outcome.CLEAN, 0, "new answer"),
    (Outcome.SKIPPED, Outcome.SKIPPED, 3, "no answer in either"),
]


@pytest.mark.parametrize(("first", "second", "code", "change"), DIFFS)
def test_diff(store: Callable[..., Path], first: Outcome, second: Outcome, code: int, change: str) -> None:
    """Console and JSON say the same, with the documented exit code."""
    places = store("a", a_run(first)), store("b", a_run(second))
    console = clipsec("diff", *places)
    assert console.exit_code == code
    words = " ".join(console.stdout.split())
    assert change in words
    assert f"Exit code {code}:" in words
    done = clipsec("diff", *places, "--format", "json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["exit_code"]) == (code, code)
    (check,) = document["checks"]
    assert (check["change"], check["first"]["outcome"], check["second"]["outcome"]) == (change, first, second)


def test_diff_of_two_models_says_that_it_cannot_compare(store: Callable[..., Path]) -> None:
    """Exit code 2, in words, even when both are clean."""
    places = store("a", a_run(Outcome.CLEAN)), store("b", a_run(Outcome.CLEAN, digest="77" * 32))
    done = clipsec("diff", *places)
    assert done.exit_code == 2
    assert "Not comparable: they are about two models" in " ".join(done.stdout.split())


def test_diff_shows_texts_literally_and_numbers_that_json_lacks(store: Callable[..., Path]) -> None:
    """Escape sequences and markup of a plugin take no effect; an infinite score is a text."""
    nasty = "\x1b[2J[bold]x[/bold]"
    run = a_run(Outcome.FINDING, target=nasty)
    ((name, verdict),) = run.verdicts.items()
    run = attrs.evolve(run, verdicts={name: attrs.evolve(verdict, score=float("inf"))})
    places = store("a", run), store("b", run)
    assert "\x1b[2J" not in clipsec("diff", *places).stdout
    assert "[bold]x[/bold]" in "".join(clipsec("diff", *places).stdout.split())
    document = json.loads(clipsec("diff", *places, "--format", "json").stdout)
    assert document["checks"][0]["first"]["score"] == "Infinity"
