"""Two runs compared, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipsec.reports._console import name_width, score_text, short_names
from clipsec.reports._text import visible
from clipsec.reports._words import WORDS, reason
from clipsec.results import Change, Comparison, Difference, Outcome, RunResult, Verdict

DIFF_VERSION = "1.0"

_STYLES = {
    Change.NEW_FINDING: WORDS[Outcome.FINDING].style,
    Change.LOST_ANSWER: WORDS[Outcome.ERROR].style,
    Change.FINDING_GONE: WORDS[Outcome.INCONCLUSIVE].style,
}
_EXIT = ("no check is worse", "a new finding", "look closer", "no check answered in either run")


def diff_to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data for `json.dumps`."""
    return {
        "schema_version": DIFF_VERSION,
        "first": _run(comparison.first),
        "second": _run(comparison.second),
        "comparable": not comparison.not_comparable,
        "not_comparable": [visible(text) for text in comparison.not_comparable],
        "checks": [
            {
                "name": visible(check.name),
                "change": str(check.change),
                "first": _verdict(check.first),
                "second": _verdict(check.second),
                "conditions": _plain(check.conditions),
            }
            for check in comparison.checks
        ],
        "environment": _plain(comparison.environment),
        "exit_code": comparison.exit_code,
    }


def _run(result: RunResult) -> dict[str, Any]:
    return {
        "suspect": visible(result.suspect.name),
        "digest": visible(result.suspect.digest),
        "started": visible(result.started),
        "outcome": str(result.outcome),
        "gate_passed": result.gate.passed,
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    numbers = {"score": verdict.score, "threshold": verdict.threshold}
    return {
        "outcome": str(verdict.outcome),
        "target": None if verdict.target is None else visible(verdict.target),
        **{key: None if value is None else _finite(value) for key, value in numbers.items()},
        "reason": visible(reason(verdict)),
    }


def _finite(value: float) -> float | str:
    return value if value - value == 0 else {True: "Infinity", False: "-Infinity"}.get(value > 0, "NaN")


def _plain(differences: tuple[Difference, ...]) -> list[dict[str, str]]:
    return [
        {key: visible(text) for key, text in attrs.asdict(difference).items()} for difference in differences
    ]


def render_diff(comparison: Comparison, console: Console | None = None) -> None:
    """Print a comparison: whether it can be made, a line a check, then what differs behind each.

    Every text of a model or plugin is printed literally.
    """
    console = console or Console(highlight=False)
    for label, run in (("First:  ", comparison.first), ("Second: ", comparison.second)):
        console.print(_text(f"{label}{run.suspect.name} {run.suspect.digest[:12]}, {run.started}"))
    for why in comparison.not_comparable:
        console.print(_text(f"Not comparable: {why}.", WORDS[Outcome.INCONCLUSIVE].style))
    if comparison.checks:
        console.print(Padding(_table(comparison), (1, 0, 1, 0), expand=False))
    for check in comparison.checks:
        for line in _conditions(check.name, check.conditions):
            console.print(_text(line))
    for line in _conditions("environment", comparison.environment):
        console.print(_text(line))
    words = _EXIT[comparison.exit_code]
    if comparison.not_comparable:
        words = "the runs cannot be compared"
    console.print(_text(f"Exit code {comparison.exit_code}: {words}."))


def _table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    short = short_names([check.name for check in comparison.checks])
    table.add_column("Check", overflow="fold", min_width=name_width(short.values()))
    for heading in ("First", "Second", "Change"):
        table.add_column(heading, overflow="fold")
    for check in comparison.checks:
        change = str(check.change) + (" (other conditions)" if check.conditions else "")
        table.add_row(
            _text(short[check.name]),
            _cell(check.first),
            _cell(check.second),
            _text(change, _STYLES.get(check.change, "")),
        )
    return table


def _cell(verdict: Verdict | None) -> Text:
    if verdict is None:
        return _text("not in this run")
    words = WORDS[verdict.outcome]
    parts = [f"{words.symbol} {words.label}", verdict.target or "", score_text(verdict)]
    return _text(", ".join(filter(None, parts)), words.style)


def _conditions(name: str, differences: tuple[Difference, ...]) -> Iterator[str]:
    for difference in differences:
        told = [visible(text, longest=80) or "none" for text in (difference.first, difference.second)]
        yield f"{visible(name, longest=80)}: {difference.what}: {' -> '.join(told)}"


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text, longest=2000), style=style, overflow="fold")
