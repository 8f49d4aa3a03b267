"""An exposure matrix as a page and on the console: every cell shows what it is, and texts stay texts."""

from __future__ import annotations

import io
import re

import attrs
import pytest
from rich.console import Console

from clipsec.exposure import Outcomes, estimate
from clipsec.reports import render_exposure, render_exposure_html
from clipsec.reports._exposure import exposure_tally
from clipsec.results import (
    Cell,
    CellState,
    EncodeCost,
    ExposureResult,
    GateResult,
    Measurement,
    Status,
    SuspectCard,
    TriggerRecord,
)

HOSTILE = "<script>window.ran = 1</script>\x1b[2J"


def measured(hits: int) -> Cell:
    some, none = [Measurement(events=(1,) * k + (0,) * (100 - k)) for k in (hits, 0)]
    found = estimate(Outcomes(attack=some, clean=none, reference_attack=none, reference_clean=none))
    return Cell(
        interface=f"d/hits-{hits}",
        version="1",
        trigger=0,
        state=CellState.MEASURED,
        status=Status.EXPOSED,
        estimate=attrs.evolve(found, adjusted_p=0.0),
        reason="why",
        metric=HOSTILE,
    )


def sample() -> ExposureResult:
    """Cells of every kind, with names that would run."""
    empty = [
        Cell(interface=f"d/{state.name}", version="1", trigger=0, state=state, reason=f"{state}: {HOSTILE}")
        for state in CellState
        if state is not CellState.MEASURED
    ]
    cells = [
        measured(0),
        measured(52),
        measured(100),
        attrs.evolve(measured(7), status=Status.IDENTICAL),
        *empty,
    ]
    card = SuspectCard(HOSTILE, digest="d", kind="clip", architecture="a", activation="gelu")
    return ExposureResult(
        suspect=card,
        reference=card,
        reference_role="named",
        gate=GateResult(True, {}),
        reference_gate=GateResult(True, {}),
        triggers=(TriggerRecord(HOSTILE, HOSTILE, True, "pictures", HOSTILE, "d"),),
        drift=(),
        footprints=(),
        cells=tuple(cells),
        cost=EncodeCost(computed_rows=10, cached_rows=90, unique_rows=10, gradient_rows=0, seconds=1.0),
        data={"labelled": "d"},
        notes=(HOSTILE,),
        seed=0,
        environment={},
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )


def tiles(page: str) -> dict[str, str]:
    return dict(re.findall(r'<li class="tile ([\w-]+)" data-interface="([\w-]+)"', page))


def test_each_cell_has_its_shade_or_its_kind_of_nothing() -> None:
    """Eleven shades of the difference; identical and the four empty kinds are no shade."""
    found = {name: kind for kind, name in tiles(render_exposure_html(sample())).items()}
    assert found == {
        "hits-0": "heat-0",
        "hits-52": "heat-5",
        "hits-100": "heat-10",
        "hits-7": "identical",
        "NOT_ELIGIBLE": "ne",
        "NOT_RUN": "not-run",
        "MISSING": "missing",
        "ERROR": "failed",
    }


def test_texts_of_models_and_plugins_stay_texts() -> None:
    """No element of theirs, no control character, on the page or the terminal."""
    page = render_exposure_html(sample())
    assert "<script" not in page
    assert "\x1b" not in page
    stream = io.StringIO()
    render_exposure(sample(), Console(file=stream, width=120))
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("state", [state for state in CellState if state is not CellState.MEASURED])
def test_the_console_tells_why_a_cell_is_empty(state: CellState) -> None:
    stream = io.StringIO()
    render_exposure(sample(), Console(file=stream, width=200))
    assert f"{state.name}: {state}" in stream.getvalue()


def test_the_cost_is_on_the_page() -> None:
    """Rows computed beside different rows asked for."""
    assert "computed 10 rows, 10 different ones were asked for" in render_exposure_html(sample())


def test_without_a_reference_no_use_is_said_to_be_compared() -> None:
    """Nor to be not exposed."""
    alone = attrs.evolve(sample(), reference=None)
    assert exposure_tally(alone).startswith("3 uses measured, none compared")
    assert exposure_tally(sample()).startswith("3 of 3 compared uses exposed")
