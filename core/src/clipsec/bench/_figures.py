"""The pictures of a bench, as SVG that is the same every time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from clipsec.bench._outcome import ALL, BenchResult, Row
from clipsec.bench._score import Case, roc_points

_COLOURS = ("#2456b8", "#b3231c", "#14693c", "#b57c10", "#86249c", "#17202c", "#2a9d8f", "#7b899b")
_CLEAN, _POISONED = "#14693c", "#b3231c"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clipsec",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def figure_name(what: str, half: str, scope: str = ALL, detector: str = "") -> str:
    """Where a figure lies below the output: `figures/HALF/roc.svg`, `figures/HALF/scores-DETECTOR.svg`."""
    parts = [what, *([] if scope == ALL else [scope.replace(" ", "-")]), *([detector] if detector else [])]
    return f"figures/{half}/{'-'.join(parts)}.svg"


def figures(result: BenchResult) -> dict[str, bytes]:
    """All pictures of a bench by `figure_name`: of each half and each part of it the ROC curves and the costs
    (`roc`, `cost`), and of each half the scores under each detector (`scores`)."""
    drawn = {}
    for half in result.halves:
        for scope in result.scopes:
            rows = [row for row in result.rows if (row.half, row.scope) == (half, scope)]
            if not rows:
                continue
            cases = {row.detector: result.cases[half, scope, row.detector] for row in rows}
            drawn[figure_name("roc", half, scope)] = roc_figure(cases)
            drawn[figure_name("cost", half, scope)] = cost_figure(cases)
            if scope == ALL:
                for row in rows:
                    threshold, title = _threshold(result, row), f"score of {row.detector}"
                    drawn[figure_name("scores", half, detector=row.detector)] = score_figure(
                        cases[row.detector], threshold, title
                    )
    return drawn


def _threshold(result: BenchResult, row: Row) -> float | None:
    """The threshold of a detector if all its verdicts have the same."""
    found = {
        line.threshold
        for line in result.verdicts
        if line.half == row.half and line.detector == row.detector and line.state == "answered"
    }
    return found.pop() if len(found) == 1 else None


def roc_figure(cases: Mapping[str, Sequence[Case]]) -> bytes:
    """ROC curves of several detectors, by label, in one SVG. Detectors without both kinds of models are left
    out."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 5.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#b8c0ca", linewidth=1, linestyle=":")
        for place, (label, found) in enumerate(cases.items()):
            points = roc_points(found)
            if points:
                x, y = zip(*points)
                axes.plot(
                    x,
                    y,
                    color=_COLOURS[place % len(_COLOURS)],
                    linestyle=("-", "--", "-.")[place // len(_COLOURS) % 3],
                    # The first are the widest, so that curves on top of each other all show.
                    linewidth=1.6 + 3.0 * (1 - (place + 1) / len(cases)),
                    label=_plain(label),
                )
        axes.set(xlabel="Clean models above the threshold", ylabel="Backdoored models above the threshold")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", frameon=False)
        return _svg(figure)


def score_figure(cases: Sequence[Case], threshold: float | None, score_name: str) -> bytes:
    """Scores of clean models and of each attack's, one mark a model, with the threshold, as SVG.

    Models without a score cannot be drawn; how many there are stands beside the name.
    """
    groups: dict[str, list[Case]] = {"clean": [case for case in cases if case.is_clean]}
    for attack in sorted({case.attack for case in cases if not case.is_clean}):
        groups[attack] = [case for case in cases if case.attack == attack]
    finite = [c.score for c in cases if c.score is not None and math.isfinite(c.score)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.42 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        if _needs_log(finite):
            axes.set_xscale("symlog", linthresh=max(1.0, abs(threshold or 1.0)))
        for place, (name, group) in enumerate(groups.items()):
            _strip(axes, place, group, _CLEAN if name == "clean" else _POISONED)
        axes.set_yticks(range(len(groups)), [_tick(name, group) for name, group in groups.items()])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        if threshold is not None and math.isfinite(threshold):
            axes.axvline(threshold, color="#17202c", linewidth=1.2, linestyle="--")
        axes.set_xlabel(_plain(score_name or "score"))
        return _svg(figure)


def cost_figure(cases: Mapping[str, Sequence[Case]]) -> bytes:
    """What each model cost each detector, by label: seconds in towers and rows through them, forward and
    backward; one mark a model, a bar at the median. Logarithmic; what is not known is left out."""
    measures: list[tuple[str, Callable[[Case], float | None]]] = [
        ("Seconds in towers, one model", lambda case: case.tower_seconds),
        ("Rows through towers, one model", _rows),
    ]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 1.0 + 0.38 * max(1, len(cases))), layout="constrained")
        for axes, (title, of) in zip(figure.subplots(1, 2, sharey=True), measures, strict=True):
            axes.set_xscale("log")
            known = [cost for found in cases.values() for cost in map(of, found) if cost]
            wide = bool(known) and max(known) > 20 * min(known)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            for place, found in enumerate(cases.values()):
                costs = sorted(cost for cost in map(of, found) if cost)
                if costs:
                    colour = _COLOURS[place % len(_COLOURS)]
                    _marks(axes, place, costs, colour)
                    middle = median(costs)
                    axes.plot([middle, middle], [place - 0.38, place + 0.38], color="#17202c", linewidth=2)
            axes.set_xlabel(title)
            axes.set_yticks(range(len(cases)), [_plain(label) for label in cases])
            axes.set_ylim(max(1, len(cases)) - 0.5, -0.5)
        return _svg(figure)


def _rows(case: Case) -> float | None:
    if case.forward_rows is None or case.backward_rows is None:
        return None
    return case.forward_rows + case.backward_rows


def _strip(axes: Axes, place: int, group: Sequence[Case], colour: str) -> None:
    _marks(
        axes, place, sorted(c.score for c in group if c.score is not None and math.isfinite(c.score)), colour
    )


def _marks(axes: Axes, place: int, values: Sequence[float], colour: str) -> None:
    # Spread by rank, not at random: the same picture every time.
    spread = 0.26 * np.sin(np.arange(len(values)) * 2.4)
    axes.scatter(values, place + spread, s=26, color=colour, alpha=0.75, linewidths=0)


def _tick(name: str, group: Sequence[Case]) -> str:
    without = sum(case.score is None or not math.isfinite(case.score) for case in group)
    beside = f" ({without} without score)" if without else ""
    return _plain(f"{name}{beside}")


def _needs_log(scores: Sequence[float]) -> bool:
    """One score can be a million when most classes of a model are equal."""
    return bool(scores) and max(map(abs, scores)) > 50


def _plain(text: str) -> str:
    """Text without matplotlib's mathematics."""
    return text.replace("$", r"\$")


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
