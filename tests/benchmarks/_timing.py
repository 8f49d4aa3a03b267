"""Ratios that survive a busy machine: cases interleaved in one process, medians, a row for each
comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import attrs

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@attrs.frozen
class Row:
    """One line of the table."""

    what: str
    ours: str
    theirs: str
    value: str
    """The ratio or share, as printed."""
    goal: str = ""


def seconds(cases: Mapping[str, Callable[[], object]], *, clock: str, repeats: int) -> dict[str, float]:
    """Median seconds of each case. Every case runs once unmeasured, then all of them in turn, `repeats`
    times."""
    now = CLOCKS[clock]
    measured: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(repeats):
        for name, case in cases.items():
            start = now()
            case()
            measured[name].append(now() - start)
    return {name: statistics.median(values) for name, values in measured.items()}


def ratio(
    what: str, took: Mapping[str, float], ours: str, theirs: str, work: float, unit: str, goal: str
) -> Row:
    """A row that says how many times faster `ours` is than `theirs` at the same `work`."""

    def rate(name: str) -> str:
        per_second = work / took[name]
        return (
            f"{name}: {per_second:,.0f} {unit}/s"
            if per_second >= 20
            else f"{name}: {per_second:.1f} {unit}/s"
        )

    return Row(what, rate(ours), rate(theirs), f"{took[theirs] / took[ours]:.1f}x", goal)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | ours | against | result | goal |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.ours} | {row.theirs} | **{row.value}** | {row.goal} |" for row in rows]
    return "\n".join(lines)
