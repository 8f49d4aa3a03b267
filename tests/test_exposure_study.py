"""The exposure study: its plans can be made, its predictions fit them, its score is by the rules."""

from __future__ import annotations

import csv
from pathlib import Path

import attrs
import pytest
from tests.studies.exposure_mini import DETECTED, INTERFACES, PLANS, Study, settings_of
from tests.studies.exposure_records import (
    NATIVE,
    PREDICTIONS,
    Run,
    brier,
    matrix_text,
    published_runs,
    verdict_of,
    write_records,
)

from clipsec.results import (
    EncodeCost,
    ExposureResult,
    Footprint,
    GateResult,
    Interpolation,
    Label,
    SuspectCard,
)
from clipsec.runner._plugin_options import make_options
from clipsec_registry import Registry


def test_plans_have_options_that_their_attacks_take() -> None:
    """Also the names of clean controls' triggers, and what is published of each attack."""
    registry = Registry()
    for plan in PLANS:
        plugin = registry.load(registry.find("attacks", plan.plugin), strict=True)
        make_options(plugin.options, plan.options, plan.name)
        assert getattr(plugin, "clean", False) == bool(plan.trigger_of)
        assert plan.trigger_of or plan.plugin in NATIVE
    names = {plan.name for plan in PLANS}
    assert {plan.trigger_of for plan in PLANS} - {""} <= names
    assert set(DETECTED) <= names


def test_predictions_are_about_models_and_interfaces_of_the_study() -> None:
    """One statement a model and interface, a probability unless it follows from the cards."""
    with PREDICTIONS.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    interfaces = {record.name for record in Registry().records("interfaces")}
    assert set(INTERFACES) <= interfaces
    assert {line["attack"] for line in lines} == {plan.name for plan in PLANS}
    assert {line["what"] for line in lines} <= interfaces | {"footprint", "native", "amdet"}
    keys = [(line["attack"], line["what"]) for line in lines]
    assert len(keys) == len(set(keys))
    for line in lines:
        assert (line["source"] == "card") == (line["expected"] == "N.E.") == (not line["probability"])
        assert not line["probability"] or 0 < float(line["probability"]) < 1


def test_a_statement_is_decided_by_two_seeds() -> None:
    """What cannot be told in a seed counts for neither side, in the score and in Brier's."""
    assert verdict_of([True, True, False]) == "hit"
    assert verdict_of([False, None, False]) == "miss"
    assert verdict_of([True, None, None]) == "not evaluable"
    assert verdict_of([True, False, None]) == "not evaluable"
    assert verdict_of([]) == "not evaluable"
    assert brier(0.8, [True, False, None]) == pytest.approx((0.04 + 0.64) / 2)
    assert brier(0.8, [None]) is None
    assert brier(None, [True]) is None


def run_of(plan_name: str, folder: str, **more: object) -> Run:
    """A model of the study without a cell, measured in some folder."""
    plan = next(plan for plan in PLANS if plan.name == plan_name)
    place = f"{folder}/models/{plan.name}-1"
    card = SuspectCard(
        place, digest="d", kind="clip", architecture="a", activation="gelu", class_names=(), base_name=place
    )
    exposure = ExposureResult(
        suspect=card,
        reference=attrs.evolve(card, name="zoo:mini", base_name="zoo:mini"),
        reference_role="named",
        gate=GateResult(True, {}),
        reference_gate=GateResult(True, {}),
        triggers=(),
        drift=(),
        footprints=(),
        cells=(),
        cost=EncodeCost(computed_rows=1, cached_rows=0, unique_rows=1, gradient_rows=0, seconds=0.5),
        data={},
        notes=(),
        seed=0,
        environment={},
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        folder=f"{folder}/exposures",
    )
    return Run(
        name=plan.name,
        plugin=plan.plugin,
        clean=bool(plan.trigger_of),
        seed=1,
        measured={"seen": {"success": {"value": 0.5}}},
        exposure=attrs.evolve(exposure, **more),
        verdict={"outcome": "clean"},
        settings=settings_of(plan),
    )


def test_published_models_count_as_done_where_the_folder_is_lost(tmp_path: Path) -> None:
    """For the same settings alone; their matrix does not say in which folder it was measured."""
    runs = [run_of(name, str(tmp_path)) for name in ("bad-encoder", "image-finetune")]
    write_records(runs, [], tmp_path / "results")
    study = Study(tmp_path / "data", tmp_path / "lost", known=published_runs(tmp_path / "results"))
    for run in runs:
        plan = next(plan for plan in PLANS if plan.name == run.name)
        known = study.run(plan, 1)
        assert known is not None
        assert str(tmp_path) not in matrix_text(run)
        assert attrs.evolve(known, exposure=run.exposure) == run
        assert matrix_text(known) == matrix_text(run)
        study.complete(plan, 1, detectors=False)  # there is no data: it would fail if it measured
        assert study.run(plan, 2) is None
        assert study.run(attrs.evolve(plan, options={**plan.options, "epochs": 99}), 1) is None


def test_a_label_by_interpolation_is_no_evidence_for_a_prediction() -> None:
    """Predictions were registered before there was any."""
    mark = Footprint(
        trigger=0,
        interface="d/i",
        probe="branch swap",
        label=Label.VISUAL,
        paper_label=Label.VISUAL,
        reason="why",
    )
    between = attrs.evolve(mark, interpolation=Interpolation(label=Label.VISUAL, reason="why"))
    assert run_of("bad-encoder", "f", footprints=(mark,)).holds("footprint", "visual") is True
    assert run_of("bad-encoder", "f", footprints=(between,)).holds("footprint", "visual") is None
