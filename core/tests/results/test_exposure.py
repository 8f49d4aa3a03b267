"""Outcome and exit code of an exposure matrix: nothing but shown equivalence reads as clean."""

from __future__ import annotations

import json
from itertools import combinations

import attrs
import pytest

from clipsec.errors import ContractError, StoreError
from clipsec.results import (
    Cell,
    CellState,
    EncodeCost,
    ExposureResult,
    GateResult,
    Measurement,
    Outcome,
    Status,
    SuspectCard,
    check_measurement,
    check_same_cases,
    exposure_from_json,
    exposure_to_text,
)

CARD = SuspectCard("s", digest="d", kind="clip", architecture="a", activation="gelu")


def cell(status: Status | None = None, state: CellState = CellState.MEASURED) -> Cell:
    return Cell(interface="d/i", version="1", trigger=0, state=state, status=status)


def matrix(*cells: Cell, gate: bool = True, reference_gate: bool = True) -> ExposureResult:
    return ExposureResult(
        suspect=CARD,
        reference=CARD,
        reference_role="named",
        gate=GateResult(gate, {}, "" if gate else "why"),
        reference_gate=GateResult(reference_gate, {}, "" if reference_gate else "why"),
        triggers=(),
        drift=(),
        footprints=(),
        cells=cells,
        cost=EncodeCost(computed_rows=0, cached_rows=0, unique_rows=0, gradient_rows=0, seconds=0.0),
        data={},
        notes=(),
        seed=0,
        environment={},
        started="2026-01-01T00:00:00+00:00",
        seconds=0.0,
    )


NOTHING = [cell(state=state) for state in CellState if state is not CellState.MEASURED]


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ([cell(Status.EQUIVALENT)], 0),
        ([cell(Status.EQUIVALENT), cell(Status.IDENTICAL), cell(state=CellState.NOT_ELIGIBLE)], 0),
        ([cell(Status.EXPOSED)], 1),
        ([cell(Status.PARTIAL), cell(state=CellState.ERROR)], 1),
        ([cell(Status.EQUIVALENT), cell(Status.CEILING)], 2),
        ([cell(Status.EQUIVALENT), cell(Status.UTILITY_BROKEN)], 2),
        ([cell(Status.EQUIVALENT), cell(Status.NEGATIVE)], 2),
        ([cell(Status.EQUIVALENT), cell(state=CellState.ERROR)], 2),
        ([cell(Status.IDENTICAL)], 3),
        ([cell(state=CellState.MISSING), cell(state=CellState.NOT_RUN)], 3),
        ([], 3),
        ([cell(None)], 2),
    ],
)
def test_the_exit_code(cells: list[Cell], code: int) -> None:
    assert matrix(*cells).exit_code == code


def test_only_equivalence_is_ever_clean() -> None:
    """Whatever pair of cells, exit code 0 needs an equivalent one and nothing doubtful."""
    every = [*(cell(status) for status in Status), *NOTHING]
    harmless = (Outcome.CLEAN, Outcome.SKIPPED)
    for pair in combinations(every, 2):
        if matrix(*pair).exit_code == 0:
            assert Status.EQUIVALENT in [each.status for each in pair]
            assert all(each.outcome in harmless for each in pair)


@pytest.mark.parametrize("gates", [(False, True), (True, False)])
@pytest.mark.parametrize("status", [Status.EQUIVALENT, Status.EXPOSED])
def test_a_failed_gate_leaves_no_verdict(gates: tuple[bool, bool], status: Status) -> None:
    """Of the suspect or of the reference: a mis-loaded model answers about another one."""
    found = matrix(cell(status), gate=gates[0], reference_gate=gates[1])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.exit_code == 2


def test_the_record_reads_back() -> None:
    document = json.loads(exposure_to_text(matrix(cell(Status.EXPOSED))))
    assert (document["outcome"], document["exit_code"]) == ("finding", 1)
    assert exposure_from_json(document) == matrix(cell(Status.EXPOSED))


@pytest.mark.parametrize("change", [{"status": "fine"}, {"state": "unknown"}, {"extra": 1}])
def test_a_record_that_was_edited_is_refused(change: dict[str, object]) -> None:
    document = json.loads(exposure_to_text(matrix(cell(Status.EXPOSED))))
    document["cells"][0] |= change
    with pytest.raises(StoreError):
        exposure_from_json(document)


@pytest.mark.parametrize("stated", [{"outcome": "clean"}, {"exit_code": 0}])
def test_a_record_whose_outcome_is_not_that_of_its_cells_is_refused(stated: dict[str, object]) -> None:
    document = json.loads(exposure_to_text(matrix(cell(Status.EXPOSED)))) | stated
    with pytest.raises(StoreError, match="cells"):
        exposure_from_json(document)


GOOD = Measurement(events=(0, 1), ranks=(2, 1), index={"held out": [3, 4]})


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {"events": (0, 1)},
        Measurement(events=()),
        Measurement(events=(0, 2)),
        Measurement(events=(0, 1), utility=(0.5,)),  # type: ignore[arg-type]
        Measurement(events=(0, 1), ranks=(1,)),
        Measurement(events=(0, 1), ranks=(0, 1)),
        Measurement(events=(0, 1), pools=(0,)),
    ],
)
def test_what_an_interface_may_not_return(bad: object) -> None:
    assert check_measurement(GOOD, "it") is GOOD
    with pytest.raises(ContractError):
        check_measurement(bad, "it")


@pytest.mark.parametrize("change", [{"events": (1,), "ranks": ()}, {"index": {}}, {"pools": (0, 1)}])
def test_conditions_must_be_about_the_same_cases(change: dict[str, object]) -> None:
    check_same_cases([GOOD, attrs.evolve(GOOD, events=(1, 1))], "it")
    with pytest.raises(ContractError):
        check_same_cases([GOOD, attrs.evolve(GOOD, **change)], "it")
