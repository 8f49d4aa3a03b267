"""The console report: the verdict first, then one line a check, then evidence, notes and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipsec.reports._evidence import SUCCESS, Evidence, evidence_of
from clipsec.reports._text import compared, duration, percent, plural, relation, title, visible
from clipsec.reports._words import (
    WORDS,
    exit_sentence,
    headline,
    known_names,
    reason,
    row_word,
    tally,
    unasked,
)
from clipsec.results import FAIL_ON, ClassEvidence, Outcome, RunResult, Verdict

REPORT_FILE = "report.html"
FIRST_COLUMNS = 58
"""Characters that class, score and success take beside each other."""
FURTHER_COLUMN = 12
"""Characters that one further measure takes, its heading folded."""


def render_console(
    result: RunResult,
    console: Console | None = None,
    verbose: bool = False,
    *,
    baseline: RunResult | None = None,
    fail_on: Collection[Outcome] = FAIL_ON,
) -> None:
    """Print a run. Per-class tables appear for findings, or for all checks if `verbose`; every class is
    there, and as many measures as the terminal has room for. Checks that nobody asked for share a line. A
    baseline and `fail_on` change the exit code that is told, never a verdict.

    Every text of a model or plugin is printed literally: no markup, no escape sequence takes effect. What the
    terminal's encoding lacks becomes a question mark.
    """
    console = console or Console(highlight=False)
    if console.encoding.lower().startswith("utf"):
        _print(result, console, verbose, baseline, fail_on)
        return
    with console.capture() as capture:
        _print(result, console, verbose, baseline, fail_on)
    console.file.write(capture.get().encode(console.encoding, "replace").decode(console.encoding))


def _print(
    result: RunResult,
    console: Console,
    verbose: bool,
    baseline: RunResult | None,
    fail_on: Collection[Outcome],
) -> None:
    words = WORDS[result.outcome]
    console.print()
    banner = Text.assemble((f" {words.symbol} {headline(result)} ", f"{words.style} reverse"))
    console.print(banner, overflow="fold")
    suspect = result.suspect
    classes = f", {plural(len(suspect.class_names), 'class', 'classes')}" if suspect.class_names else ""
    console.print(_text(f"{suspect.name} ({suspect.kind}, {suspect.architecture}{classes})", "bold"))
    console.print(_text(f"{tally(result)} {duration(result.seconds)} in all."))
    if not result.gate.passed:
        style = WORDS[Outcome.INCONCLUSIVE].style
        console.print(_text(f"The sanity gate failed: {result.gate.reason}", style, longest=2000))
    for note in suspect.notes:
        console.print(_text(f"Note on the model: {note}", longest=2000))
    short = short_names(list(result.verdicts))
    shown = {name: one for name, one in result.verdicts.items() if verbose or not unasked(one)}
    others = [short[name] for name in result.verdicts if name not in shown]
    if shown:
        console.print(Padding(_checks(shown, short), (1, 0, 0, 0), expand=False))
    for name, verdict in shown.items():
        _print_details(console, name, verdict, verbose, row_word(result, verdict))
    if others:
        console.print()
        console.print(
            _text(f"Not run, for they were not named (--detector NAME): {', '.join(others)}", "dim")
        )
    console.print()
    if result.folder:
        report = Path(result.folder) / REPORT_FILE
        place = report if report.is_file() else Path(result.folder)
        # Not folded: a path that is broken over two lines cannot be copied.
        console.print(_text(f"Report: {place}", longest=5000), soft_wrap=True)
    for name in known_names(result, baseline):
        console.print(_text(f"Known: the baseline has the finding of {name} too."))
    console.print(_text(exit_sentence(result, baseline, fail_on)))


def _text(text: object, style: str = "", lines: bool = False, longest: int = 600) -> Text:
    return Text(visible(text, lines=lines, longest=longest), style=style, overflow="fold")


def _checks(verdicts: Mapping[str, Verdict], short: Mapping[str, str]) -> Table:
    """One line a check; the full names and where thresholds come from follow below."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Check", overflow="fold", min_width=name_width(short[name] for name in verdicts))
    for heading in ("Outcome", "Target", "Score"):
        table.add_column(heading, overflow="fold")
    table.add_column("Time", justify="right", no_wrap=True)
    for name, verdict in verdicts.items():
        words = WORDS[verdict.outcome]
        table.add_row(
            _text(short[name]),
            _text(f"{words.symbol} {words.label}", words.style),
            _text("" if verdict.target is None else verdict.target),
            _text(score_text(verdict)),
            _text(duration(verdict.cost.seconds)),
        )
    return table


def name_width(names: Iterable[str]) -> int:
    """Columns that keep names on one line, where they are not long: a target's words may wrap instead."""
    return min(30, max(map(len, names), default=0))


def short_names(names: list[str]) -> dict[str, str]:
    """Canonical names to their last part, where no other check of the run has the same. A check
    from an unpackaged file keeps the `local/` that says so."""
    last = {name: name.rpartition("/")[2] or name for name in names}
    counts = Counter(last.values())
    return {
        name: last[name] if counts[last[name]] == 1 and not name.startswith("local/") else name
        for name in names
    }


def score_text(verdict: Verdict) -> str:
    """`5.31 > 2.00`, or as much of it as there is."""
    if verdict.score is None:
        return ""
    score, threshold = compared(verdict.score, verdict.threshold)
    if verdict.threshold is None:
        return score
    return f"{score} {relation(verdict.score, verdict.threshold)} {threshold}"


def _print_details(console: Console, name: str, verdict: Verdict, verbose: bool, row: str) -> None:
    words = WORDS[verdict.outcome]
    console.print()
    console.print(Text.assemble((f"{words.symbol} ", words.style), _text(name, "bold")), overflow="fold")
    lines: list[tuple[str, str]] = [("", reason(verdict))]
    if verdict.error is not None and verdict.error.remedy:
        lines.append(("What to do: ", verdict.error.remedy))
    if verdict.threshold is not None:
        lines.append(("Threshold from: ", verdict.threshold_source or "not stated by the check"))
    lines += [("Note: ", note) for note in verdict.notes]
    for label, text in lines:
        console.print(_indented(Text.assemble((label, "bold"), _text(text, longest=2000))))
    if verbose and verdict.error is not None and verdict.error.traceback:
        console.print(_indented(_text(verdict.error.traceback, "dim", lines=True, longest=20_000)))
    if verdict.evidence and (verbose or verdict.outcome is Outcome.FINDING):
        evidence = evidence_of(verdict)
        room = max(0, console.width - FIRST_COLUMNS) // FURTHER_COLUMN
        table = _classes(evidence, evidence.other_keys[:room], row)
        console.print(Padding(table, (1, 0, 0, 2), expand=False))
        hidden = evidence.other_keys[room:]
        if hidden:
            names = ", ".join(title(key).lower() for key in hidden)
            console.print(_indented(_text(f"Not shown here, but in the report: {names}", "dim")))


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2), expand=False)


def _classes(evidence: Evidence, further: Sequence[str], heading: str) -> Table:
    """Every row; of the further measures as many as the terminal has room for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(heading, overflow="fold")
    if evidence.score_key is not None:
        table.add_column(_text(title(evidence.score_key)), justify="right", no_wrap=True)
    if evidence.has_success:
        table.add_column("Success", justify="right", no_wrap=True)
    for key in further:
        table.add_column(_text(title(key)), justify="right", overflow="fold")
    for row in evidence.rows:
        table.add_row(*_cells(evidence, row, further), style="bold red" if row.flagged else "")
    return table


def _cells(evidence: Evidence, row: ClassEvidence, further: Sequence[str]) -> list[Text]:
    mark = " (target)" if evidence.is_target(row) else " (flagged)" if row.flagged else ""
    cells = [_text(f"{visible(row.name)}{mark}")]
    if evidence.score_key is not None:
        cells.append(_text(evidence.text(row, evidence.score_key)))
    if evidence.has_success:
        cells.append(_text(f"{percent(row.measures.get(SUCCESS))} of {row.n:,}"))
    return cells + [_text(evidence.text(row, key)) for key in further]
