"""The pictures of a bench, as SVG that is the same every time."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
                    linewidth=2,
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


def _strip(axes: Axes, place: int, group: Sequence[Case], colour: str) -> None:
    scores = sorted(c.score for c in group if c.score is not None and math.isfinite(c.score))
    # Spread by rank, not at random: the same picture every time.
    spread = 0.26 * np.sin(np.arange(len(scores)) * 2.4)
    axes.scatter(scores, place + spread, s=26, color=colour, alpha=0.75, linewidths=0)


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
