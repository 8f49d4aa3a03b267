"""The exposure study: its plans can be made, its predictions fit them, its score is by the rules."""

from __future__ import annotations

import csv

import pytest
from tests.studies.exposure_mini import DETECTED, INTERFACES, PLANS
from tests.studies.exposure_report import NATIVE, PREDICTIONS, brier, verdict_of

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
