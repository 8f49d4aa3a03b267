"""A repair on the console: the outcome first, then each rate before and after."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipsec.reports._text import duration, visible
from clipsec.results import BeforeAfter, Likeness, RepairOutcome, RepairResult

_STYLES = {
    RepairOutcome.REPAIRED: ("\N{CHECK MARK}", "Repaired", "bold green"),
    RepairOutcome.NOT_REPAIRED: ("!", "Not repaired", "bold red"),
    RepairOutcome.INCONCLUSIVE: ("?", "No verdict on the repair", "bold yellow"),
}


def render_repair(result: RepairResult, console: Console | None = None) -> None:
    """Print a repair. Texts of models and plugins are printed literally."""
    console = console or Console(highlight=False)
    symbol, headline, style = _STYLES[result.outcome]
    console.print()
    console.print(Text(f" {symbol} {headline} ", f"{style} reverse"))
    console.print(Text(visible(result.summary, longest=2000)), overflow="fold")
    console.print(
        Text(visible(f"{result.suspect.name}, repaired by {result.repair} {result.version}", longest=2000)),
        style="bold",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    held_out = "On held-out inputs" if result.likeness else "On held-out pictures"
    for heading in (held_out, "Before", "After", "95% interval", "Clean base", "Inputs"):
        table.add_column(heading, justify="left" if heading.startswith("On") else "right", overflow="fold")
    if result.accuracy is not None:
        _row(table, "clean accuracy", result.accuracy)
    for trigger in result.triggers:
        words = trigger.whose.removeprefix("the ")
        words += f", {trigger.name}" if trigger.name else ""
        # What a detector of text towers takes for the target is a guess, and a long one.
        guess = bool(trigger.name) and not trigger.planted
        words += f", to {trigger.target}" if trigger.target and not guess else ""
        _row(table, visible(words), trigger.success)
    console.print(Padding(table, (1, 0, 1, 0), expand=False))
    if result.likeness is not None:
        console.print(Text(_likeness(result.likeness)))
    for note in result.notes:
        console.print(Text(f"Note: {visible(note, longest=2000)}"))
    console.print(Text(f"{duration(result.seconds)} in all."))
    if result.folder:
        console.print(Text(f"Repaired model: {visible(result.folder, longest=5000)}"), soft_wrap=True)
        console.print(
            Text(f"Audit it before you use it: clipsec run {visible(result.folder)}"), soft_wrap=True
        )
    else:
        console.print(Text("Nothing was kept."))
    console.print(Text(f"Exit code {result.exit_code}."))


def _likeness(alike: Likeness) -> str:
    text = (
        f"Clean captions: mean cosine {alike.to_suspect:.3f} to where they were, {alike.lowest:.3f} for the "
        f"one that moved furthest ({alike.n} captions)"
    )
    if alike.before_to_base is not None and alike.after_to_base is not None:
        text += f"; to the clean model {alike.before_to_base:.3f} before, {alike.after_to_base:.3f} after"
    return f"{text}."


def _row(table: Table, name: str, rates: BeforeAfter) -> None:
    interval = rates.after.interval
    table.add_row(
        Text(name),
        _percent(rates.before.value),
        Text(_percent(rates.after.value), "bold"),
        f"{_percent(interval.low)} to {_percent(interval.high)}",
        "" if rates.base is None else _percent(rates.base.value),
        f"{rates.after.n:,}",
    )


def _percent(value: float) -> str:
    # One decimal: whether 5.4 or 4.6 of a hundred are left decides about the outcome.
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
