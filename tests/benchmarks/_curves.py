"""The curves of `scan`, as SVG that is the same every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Line = dict[str, Any]
_STYLES = {
    "plain": ("#b3231c", "plain recipe"),
    "full": ("#2456b8", "all classes to the end"),
    "halving": ("#14693c", "successive halving"),
    "probes": ("#b57c10", "probes"),
    "plus": ("#86249c", "probes and halving"),
}
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clipsec",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def classes_figure(scans: Sequence[Line]) -> bytes:
    """Seconds of the first model's scan against its number of classes, by schedule; both logarithmic."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log")
        marks = set()
        for (schedule, pictures), lines in _groups([s for s in scans if s.get("model", 1) == 1]).items():
            lines = sorted(lines, key=lambda line: line["classes"])
            marks |= {line["classes"] for line in lines}
            colour, title = _STYLES[schedule]
            axes.plot(
                [line["classes"] for line in lines],
                [line["seconds"] for line in lines],
                color=colour,
                marker="o",
                label=f"{title}, {pictures:,} pictures",
            )
        axes.set_xticks(sorted(marks), [str(mark) for mark in sorted(marks)])
        axes.minorticks_off()
        axes.set(xlabel="Classes", ylabel=f"Seconds ({_clock(scans)}) for one model")
        return _finished(figure, axes)


def models_figure(scans: Sequence[Line]) -> bytes:
    """Seconds of each model on one base, in the order in which they were audited, and the mean so far.

    Hollow marks: the first of a new process, which had to compute the clean features again.
    """
    several = [s for s in scans if s["schedule"] != "plain"]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for classes in sorted({line["classes"] for line in several}):
            for (schedule, pictures), lines in _groups(
                [s for s in several if s["classes"] == classes]
            ).items():
                lines = sorted(lines, key=lambda line: line["model"])
                numbers, seconds = [s["model"] for s in lines], [s["seconds"] for s in lines]
                if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < 2:
                    continue
                colour, title = _STYLES[schedule]
                axes.scatter(
                    numbers,
                    seconds,
                    s=26,
                    edgecolors=colour,
                    facecolors=["none" if line.get("cold") else colour for line in lines],
                    label=f"{title}, {classes} classes, {pictures:,} pictures",
                )
                means = [sum(seconds[:n]) / n for n in numbers]
                axes.plot(numbers, means, color=colour, linestyle="--", label="mean of the models so far")
        axes.set_ylim(bottom=0)
        axes.set(xlabel="Model on the same base", ylabel=f"Seconds ({_clock(scans)}) for one model")
        return _finished(figure, axes)


def _groups(scans: Sequence[Line]) -> dict[tuple[str, int], list[Line]]:
    groups: dict[tuple[str, int], list[Line]] = {}
    for line in scans:
        groups.setdefault((line["schedule"], line["pictures"]), []).append(line)
    return groups


def _clock(scans: Sequence[Line]) -> str:
    return " and ".join(sorted({line["clock"] for line in scans})) or "none"


def _finished(figure: Figure, axes: Axes) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
