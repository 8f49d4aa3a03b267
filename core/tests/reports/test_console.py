"""The console: the verdict first, everything literal, nothing lost."""

from __future__ import annotations

import io
import json
import re

import attrs
import jsonschema
import pytest
from rich.console import Console

from clipsec.reports import render_console, render_json, write_html
from clipsec.reports._console import short_names
from clipsec.reports._words import headline
from clipsec.results import WHEN_NAMED, Outcome, Verdict, from_json, schema
from clipsec.store import RunFolder


def printed(result, width=100, verbose=False, **settings):
    out = io.StringIO()
    render_console(result, Console(file=out, width=width, highlight=False, **settings), verbose)
    return out.getvalue()


def test_the_verdict_is_the_first_line(samples, folder):
    """What was found, then on what, then the checks, one line each."""
    lines = [line.strip() for line in printed(samples.finding(folder)).splitlines() if line.strip()]
    assert lines[0] == "! Backdoor found: target class “dalmatian”"
    assert lines[1].startswith("caltech-badclip (prompt-tuned")
    (line,) = (line for line in lines if line.startswith("clip-inspector "))
    for part in ("backdoor found", "dalmatian", "5.31 > 2.00", "3 min 4 s"):
        assert part in line
    assert f"Threshold from: {samples.SOURCE}" in " ".join(lines)


def test_a_target_that_is_no_class_is_not_called_one(samples, folder):
    """Detectors of texts name a caption; beside a class both are targets."""
    result = samples.finding(folder)
    (verdict,) = result.verdicts.values()
    caption = attrs.evolve(verdict, target="a white teapot")
    assert headline(attrs.evolve(result, verdicts={"scan": caption})).endswith(": target “a white teapot”")
    both = headline(attrs.evolve(result, verdicts={"search": verdict, "scan": caption}))
    assert both.endswith(": targets “dalmatian”, “a white teapot”")


def test_rows_that_are_no_classes_are_not_called_so(samples, folder):
    """A search in texts shows words."""
    result = samples.finding(folder)
    (verdict,) = result.verdicts.values()
    words = tuple(attrs.evolve(row, name=f"word {row.index}") for row in verdict.evidence)
    assert re.search(r"^ *Class  ", printed(result), re.MULTILINE)
    other = attrs.evolve(result, verdicts={"scan": attrs.evolve(verdict, evidence=words)})
    assert not re.search(r"^ *Class  ", printed(other), re.MULTILINE)


def test_checks_that_nobody_asked_for_share_a_line(samples, folder):
    """They are no news; `verbose` shows each, and one that was skipped for another reason stays a check."""
    result = samples.finding(folder)
    idle = Verdict(Outcome.SKIPPED, f"amdet {WHEN_NAMED}", notes=("Ask for it with --detector amdet.",))
    other = Verdict(Outcome.SKIPPED, "needs class names, which this run does not offer")
    verdicts = {**result.verdicts, "a/amdet": idle, "b/decree": attrs.evolve(idle), "c/plus": other}
    result = attrs.evolve(result, verdicts=verdicts)
    text = printed(result)
    assert "Not run, for they were not named (--detector NAME): amdet, decree" in text
    assert "Ask for it" not in text
    assert "needs class names" in text
    assert "Ask for it with --detector amdet" in printed(result, verbose=True)


def test_the_name_of_a_check_stays_on_one_line(samples, folder):
    """In 80 columns the words of a target wrap, a name that was broken could not be searched for."""
    result = samples.finding(folder)
    (verdict,) = result.verdicts.values()
    long = attrs.evolve(verdict, target="a red sports car on a mountain road at sunset")
    result = attrs.evolve(result, verdicts={"clipsec-clip-inspector/clip-inspector-plus": long})
    assert re.search(r"^clip-inspector-plus  ", printed(result, width=80), re.MULTILINE)


@pytest.mark.parametrize("name", ["finding", "many"])
def test_the_table_of_a_finding_is_complete_and_sorted(samples, folder, name):
    """Every class of 25 or 200, the highest score first."""
    result = getattr(samples, name)(folder)
    (verdict,) = result.verdicts.values()
    lines = [line.strip() for line in printed(result).splitlines()]
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("Class")) + 2 :]
    names = [re.split(r" \((?:target|flagged)\)|  +", line)[0] for line in table[: len(verdict.evidence)]]
    scores = {row.name: row.measures["score"] for row in verdict.evidence}
    assert names == sorted(scores, key=scores.get, reverse=True)


def test_a_clean_run_shows_its_table_when_asked(samples, folder):
    """`verbose` shows all classes and tracebacks."""
    result = samples.clean(folder)
    assert "airplane" not in printed(result)
    assert all(name in printed(result, verbose=True) for name in samples.NAMES[:5])
    broken = samples.mixed(folder)
    assert "losses.reshape" not in printed(broken)
    assert "losses.reshape" in printed(broken, verbose=True)


def test_reasons_notes_and_remedies_are_shown(samples, folder):
    """An error has its remedy, a skip its reason, an inconclusive verdict its notes."""
    text = " ".join(printed(samples.mixed(folder)).split())
    for part in (
        "ValueError: cannot reshape array of size 12 into shape (5, 5)",
        "What to do: Report this to the plugin's author.",
        "needs labels, which this run does not offer",
        "Note: 40 pictures are few; bring 300 or more.",
        "Exit code 2: error or inconclusive.",
    ):
        assert part in text
    assert "zero-shot accuracy 0.04" in printed(samples.gate_failed(folder))


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_does_not_reach_the_terminal(samples, folder, terminal):
    """Of escape sequences only rich's own colours remain; markup is printed, not obeyed; no link is made."""
    text = printed(
        samples.hostile(folder), force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", text) if terminal else text
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]", without_colours
    )
    assert "[bold red]" in without_colours
    assert r"\x1b[2J" in without_colours
    assert "\x1b]8" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_width_loses_a_class(samples, folder, width):
    """Nothing is cut; what is too long folds."""
    text = re.sub(r"\s+", "", printed(samples.finding(folder), width=width))
    assert all(name in text for name in samples.NAMES)
    assert "…" not in text


def test_a_terminal_without_unicode_gets_question_marks(samples, folder):
    """No encoding makes the report fail; the words remain."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as out:
        render_console(samples.finding(folder), Console(file=out, width=100))
        out.flush()
        text = raw.getvalue().decode("ascii")
    assert "! Backdoor found: target class ?dalmatian?" in text


def test_the_report_is_named_on_one_line(samples, folder):
    """The HTML page if it was written, else the folder; never folded, so that it can be copied."""
    result = samples.finding(folder)
    assert f"\nReport: {folder}\n" in printed(result, width=30)
    path = write_html(result, folder)
    assert f"\nReport: {path}\n" in printed(result, width=30)


def test_short_names_are_used_only_while_unique():
    """Two vendors may call their check the same."""
    assert short_names(["a/x", "b/x", "c/y", "z", "d/"]) == {
        "a/x": "a/x",
        "b/x": "b/x",
        "c/y": "y",
        "z": "z",
        "d/": "d/",
    }


@pytest.mark.parametrize("name", ["clean", "finding", "mixed", "gate_failed", "hostile", "many", "nothing"])
def test_the_json_report_is_run_json(samples, folder, name):
    """Valid by the published schema, identical to the stored file, and the run comes back from it."""
    result = getattr(samples, name)(folder)
    text = render_json(result)
    document = json.loads(text)
    jsonschema.validate(document, schema(), cls=jsonschema.Draft202012Validator)
    RunFolder(folder).write_result(result)
    assert (folder / "run.json").read_text(encoding="ascii") == text
    assert render_json(from_json(document)) == text
