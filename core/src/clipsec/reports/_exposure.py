"""An exposure matrix on the console: the outcome, footprints, one line a cell, and why others have none."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipsec.reports._console import name_width
from clipsec.reports._text import duration, percent, plural, visible
from clipsec.results import (
    BranchDrift,
    Cell,
    CellState,
    ExposureResult,
    Footprint,
    Interpolation,
    Outcome,
    Status,
    exposed,
)

STYLES = {
    Status.EXPOSED: "bold red",
    Status.PARTIAL: "red",
    Status.EQUIVALENT: "green",
    Status.NEGATIVE: "yellow",
    Status.CEILING: "yellow",
    Status.UTILITY_BROKEN: "yellow",
    Status.IDENTICAL: "dim",
    Status.INCONCLUSIVE: "yellow",
}
HEADLINES = {
    Outcome.FINDING: ("!", "Exposed", "bold red"),
    Outcome.CLEAN: ("\N{CHECK MARK}", "Not exposed to this trigger", "bold green"),
    Outcome.INCONCLUSIVE: ("?", "No verdict", "bold yellow"),
    Outcome.ERROR: ("\N{MULTIPLICATION SIGN}", "Not all could be measured", "bold magenta"),
    Outcome.SKIPPED: ("\N{EN DASH}", "Nothing could be compared", "bold"),
}


def exposure_tally(result: ExposureResult) -> str:
    """One sentence: through how many of the uses that were measured the trigger hurts."""
    measured = [cell for cell in result.cells if cell.state is CellState.MEASURED]
    hurt = exposed(result.cells)
    compared = [cell for cell in measured if cell.status is not Status.IDENTICAL]
    gates = [result.gate, *([] if result.reference_gate is None else [result.reference_gate])]
    if result.reference is None:  # nothing was compared, so none of it is "not exposed"
        text = f"{plural(len(compared), 'use')} measured, none compared: there is no clean reference"
    else:
        text = f"{len(hurt)} of {plural(len(compared), 'compared use')} exposed"
    if len(measured) > len(compared):
        text += f"; {len(measured) - len(compared)} more read only what is the reference's own"
    text += f"; {len(result.cells) - len(measured)} without a number."
    if not all(gate.passed for gate in gates):
        text += " The sanity gate failed, so nothing of this is a verdict."
    return text


def interface_name(cell: Cell) -> str:
    """The short name of the interface; one from an unpackaged file keeps `local/`."""
    return cell.interface if cell.interface.startswith("local/") else cell.interface.rpartition("/")[2]


def drift_text(drift: BranchDrift) -> str:
    """What the screen says of a branch, a clause."""
    if drift.identical:
        return "the reference's own, bit for bit: it carries no inserted footprint"
    parts = []
    if drift.relative_change is not None:
        parts.append(f"weights moved by {percent(drift.relative_change)} of their length")
    else:
        parts.append("not built like the reference's")
    if drift.cka is not None:
        parts.append(f"CKA {drift.cka:.3f}")
    if drift.worst_cosine is not None:
        parts.append(f"worst cosine {drift.worst_cosine:.3f}")
    return f"{', '.join(parts)} (over {drift.inputs} inputs)" if drift.inputs else ", ".join(parts)


def footprint_text(footprint: Footprint) -> str:
    """Label, reason and how sure, a sentence."""
    sure = "" if footprint.agreement is None else f" ({footprint.agreement:.0%} of resamples agree)"
    rates = ", ".join(f"{name} {rate.value:.1%}" for name, rate in footprint.rates.items())
    text = f"{footprint.reason}{sure}; {footprint.probe} on {footprint.interface.rpartition('/')[2]}: {rates}"
    if footprint.interpolation is not None and footprint.interpolation.points:
        text += f"; {dose_text(footprint.interpolation)}"
    if footprint.parts:
        text += f"; smallest parts: {', '.join(footprint.parts)}"
    return text


def dose_text(interpolation: Interpolation) -> str:
    """The dose-response curves from the reference, a clause: each branch moved alone, and both."""
    curves: dict[str, list[str]] = {"visual branch": [], "textual branch": [], "both branches": []}
    for point in interpolation.points:
        told = f"{point.rate.value:.1%}" if point.valid else f"left out (clean use {point.utility.value:.1%})"
        at = max(point.visual, point.textual)
        if 0 < at < 1:
            names = {
                "visual branch": point.textual == 0,
                "textual branch": point.visual == 0,
                "both branches": point.visual == point.textual,
            }
            for name, on in names.items():
                curves[name] += [f"at {at:g} {told}"] if on else []
    moved = ", ".join(f"{name} {', '.join(told)}" for name, told in curves.items())
    return f"a share of the way from the reference to the suspect: {moved}"


def did_text(cell: Cell) -> str:
    """Difference in differences with its interval, in points; empty without a reference."""
    if cell.estimate is None or cell.estimate.did is None:
        return ""
    did = cell.estimate.did
    return f"{100 * did.value:+.1f} [{100 * did.interval.low:+.1f}, {100 * did.interval.high:+.1f}]"


def render_exposure(result: ExposureResult, console: Console | None = None) -> None:
    """Print a matrix. Texts of models and plugins are printed literally."""
    console = console or Console(highlight=False)
    symbol, headline, style = HEADLINES[result.outcome]
    console.print()
    console.print(Text(f" {symbol} {headline} ", f"{style} reverse"))
    console.print(Text(visible(exposure_tally(result), longest=2000)), overflow="fold")
    against = "no clean reference" if result.reference is None else f"against {result.reference.name}"
    console.print(Text(visible(f"{result.suspect.name}, {against}", longest=2000)), style="bold")
    for gate, whose in ((result.gate, "suspect"), (result.reference_gate, "reference")):
        if gate is not None and not gate.passed:
            console.print(
                Text(f"Sanity gate of the {whose} failed: {visible(gate.reason, longest=2000)}", "red")
            )
    for drift in result.drift:
        console.print(Text(f"{drift.branch.capitalize()} branch: {drift_text(drift)}."))
    for position, trigger in enumerate(result.triggers):
        whose = "recovered by " if trigger.recovered else "of "
        console.print()
        console.print(
            Text(visible(f"Trigger {trigger.name}, {whose}{trigger.origin or 'an unknown source'}"), "bold")
        )
        for footprint in result.footprints:
            if footprint.trigger == position:
                line = f"Footprint: {footprint.label}. {footprint_text(footprint)}."
                console.print(Text(visible(line, longest=2000)), overflow="fold")
        console.print(Padding(_table(result.row(position)), (1, 0, 0, 0), expand=False))
        empty = [cell for cell in result.row(position) if cell.state is not CellState.MEASURED]
        for cell in empty:
            line = f"{interface_name(cell)}: {cell.state}, {cell.reason}"
            console.print(Text(visible(line, longest=1000), "" if cell.state is CellState.ERROR else "dim"))
    console.print()
    for note in result.notes:
        console.print(Text(f"Note: {visible(note, longest=2000)}"), overflow="fold")
    console.print(Text(cost_text(result)))
    if result.folder:
        console.print(Text(f"Page and records: {visible(result.folder, longest=5000)}"), soft_wrap=True)
    console.print(Text(f"Exit code {result.exit_code}."))


def cost_text(result: ExposureResult) -> str:
    """What it took, a sentence."""
    cost = result.cost
    text = (
        f"{duration(result.seconds)}; towers computed {cost.computed_rows:,} rows, {cost.unique_rows:,} "
        f"different ones were asked for, {cost.cached_rows:,} times one was there already"
    )
    return text + (f"; {cost.gradient_rows:,} rows for tuning." if cost.gradient_rows else ".")


def _table(cells: tuple[Cell, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("Interface", "Status", "With", "Without", "Reference", "Difference (points)", "n"):
        left = heading in ("Interface", "Status")
        least = name_width(map(interface_name, cells)) if heading == "Interface" else None
        table.add_column(heading, justify="left" if left else "right", overflow="fold", min_width=least)
    for cell in cells:
        found = cell.estimate
        if found is None or cell.status is None:
            continue
        reference = "" if found.reference_attack is None else f"{found.reference_attack.value:.1%}"
        table.add_row(
            Text(visible(interface_name(cell))),
            Text(str(cell.status), STYLES[cell.status]),
            f"{found.attack.value:.1%}",
            f"{found.clean.value:.1%}",
            reference,
            did_text(cell),
            f"{found.n:,}",
        )
    return table
