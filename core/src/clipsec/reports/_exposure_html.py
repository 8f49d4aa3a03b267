"""The exposure matrix as one self-contained page: heat map, footprints, why cells are empty, cost."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

import attrs
from markupsafe import Markup

from clipsec import __version__
from clipsec.reports._exposure import (
    HEADLINES,
    cost_text,
    did_text,
    drift_text,
    exposure_tally,
    footprint_text,
    interface_name,
)
from clipsec.reports._html import page_environment, page_style
from clipsec.results import Cell, CellState, DosePoint, ExposureResult, Footprint, Status

STEPS = 10
"""Shades of the heat map."""
_EMPTY = {
    CellState.NOT_ELIGIBLE: "ne",
    CellState.NOT_RUN: "not-run",
    CellState.MISSING: "missing",
    CellState.ERROR: "failed",
}
_STATUS = {
    Status.EXPOSED: "finding",
    Status.PARTIAL: "finding",
    Status.EQUIVALENT: "clean",
    Status.NEGATIVE: "inconclusive",
    Status.CEILING: "inconclusive",
    Status.UTILITY_BROKEN: "inconclusive",
    Status.IDENTICAL: "skipped",
    Status.INCONCLUSIVE: "inconclusive",
}


@attrs.frozen
class Tile:
    """One cell as the template wants it."""

    cell: Cell
    name: str
    kind: str
    """CSS class: `heat-0` to `heat-10`, `identical`, or that of an empty cell."""
    tint: str
    """CSS class of the status."""
    did: str
    low: float | None
    high: float | None
    value: float | None
    """Of the difference in differences, as places on an axis from -1 to 1, per cent."""


def render_exposure_html(result: ExposureResult) -> str:
    """One page that needs nothing else, runs nothing and loads nothing; everything from models and plugins is
    escaped."""
    extra = resources.files("clipsec.reports").joinpath("templates/exposure.css").read_text(encoding="utf-8")
    style = page_style() + extra
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    rows = [[tile(cell) for cell in result.row(position)] for position in range(len(result.triggers))]
    return (
        page_environment()
        .get_template("exposure.html.j2")
        .render(
            result=result,
            rows=rows,
            style=Markup(style),
            style_digest=digest,
            headline=HEADLINES[result.outcome][1],
            tally=exposure_tally(result),
            cost=cost_text(result),
            drifts=[(drift, drift_text(drift)) for drift in result.drift],
            footprints=[(mark, footprint_text(mark), dose_grid(mark)) for mark in result.footprints],
            version=__version__,
        )
    )


def dose_grid(footprint: Footprint) -> list[tuple[float, list[DosePoint]]]:
    """The mixtures of an interpolated swap, a row for each share of the visual branch, with that share."""
    points = () if footprint.interpolation is None else footprint.interpolation.points
    rows: dict[float, list[DosePoint]] = {}
    for point in points:
        rows.setdefault(point.visual, []).append(point)
    return list(rows.items())


def tile(cell: Cell) -> Tile:
    """Geometry and shade of a cell."""
    name = interface_name(cell)
    found = cell.estimate
    if cell.state is not CellState.MEASURED or found is None or cell.status is None:
        return Tile(cell, name, _EMPTY.get(cell.state, "failed"), "", "", None, None, None)
    if cell.status is Status.IDENTICAL:
        return Tile(cell, name, "identical", _STATUS[cell.status], "", None, None, None)
    shown = found.by_trigger if found.did is None else found.did
    shade = round(STEPS * min(max(shown.value, 0.0), 1.0))
    kind = f"heat-{shade}" if shown.value >= 0 or shade else "heat-0"
    return Tile(
        cell,
        name,
        "cold" if shown.interval.high < 0 else kind,
        _STATUS[cell.status],
        did_text(cell),
        _place(shown.interval.low),
        _place(shown.interval.high),
        _place(shown.value),
    )


def _place(value: float) -> float:
    return round(50 + 50 * min(max(value, -1.0), 1.0), 2)
