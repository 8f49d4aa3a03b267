"""A repair on the console: the outcome first, then each rate before and after."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipsec.reports._text import duration, visible
from clipsec.results import BeforeAfter, RepairOutcome, RepairResult

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
    for heading in ("On held-out pictures", "Before", "After", "95% interval", "Clean base", "Pictures"):
        table.add_column(heading, justify="left" if heading.startswith("On") else "right", overflow="fold")
    _row(table, "clean accuracy", result.accuracy)
    for trigger in result.triggers:
        whose = "attacker's trigger" if trigger.planted else "found trigger"
        _row(table, visible(f"{whose}, to {trigger.target}"), trigger.success)
    console.print(Padding(table, (1, 0, 1, 0), expand=False))
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


def _row(table: Table, name: str, rates: BeforeAfter) -> None:
    interval = rates.after.interval
    table.add_row(
        Text(name),
        _percent(rates.before.value),
        Text(_percent(rates.after.value), "bold"),
        f"{_percent(interval.low)} to {_percent(interval.high)}",
        _percent(rates.base.value),
        f"{rates.after.n:,}",
    )


def _percent(value: float) -> str:
    # One decimal: whether 5.4 or 4.6 of a hundred are left decides about the outcome.
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
