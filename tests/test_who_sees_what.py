"""The study of every attack beside every detector: its models can be made, its cells say what was seen."""

from __future__ import annotations

from typing import Any

import pytest
from tests.studies.who_detectors import DETECTORS, ROUNDS
from tests.studies.who_models import IMAGE, LONE, MODELS, PROMPTS, FromCase
from tests.studies.who_published import facts_elsewhere, implied, verdict_elsewhere
from tests.studies.who_report import cell, detector_table, matrix_table, planted
from tests.studies.who_sees_what import units

from clipsec.runner import make_options
from clipsec_registry import Registry

NAMES = [model.name for model in MODELS]
FILES = dict.fromkeys(("coco", "flickr8k", "fashion_titles", "pairs", *(f"parts-{n}" for n in range(4))), "f")


def row(name: str, *, success: float = 1.0, **verdicts: dict[str, Any]) -> dict[str, Any]:
    """What a study knows of a model."""
    model = next(model for model in MODELS if model.name == name)
    return {
        "name": name,
        "number": 0,
        "place": model.place,
        "benign": model.benign,
        "targets": ["kitchen"],
        "words": ["velvet quartz"],
        "measured": {} if model.benign else {"success": success},
        "verdicts": {label.replace("_", "-"): said for label, said in verdicts.items()},
        "samples": {},
    }


def said(outcome: str, **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "summary": "", "target": None, "seconds": 7.0, **more}


def test_every_attack_that_is_installed_is_in_the_matrix() -> None:
    """Its options are taken, and clean controls are called benign."""
    registry = Registry()
    assert {model.plugin for model in MODELS} == {record.name for record in registry.records("attacks")}
    assert len(NAMES) == len(set(NAMES))
    for model in MODELS:
        plugin = registry.load(registry.find("attacks", model.plugin), strict=True)
        make_options(plugin.options, model.options(0, FILES), model.name)
        assert getattr(plugin, "clean", False) == model.benign


def test_every_model_detector_is_in_the_matrix_and_is_made_for_models_of_it() -> None:
    sample_detectors = {"bdetclip", "local-density"}
    installed = {record.name for record in Registry().records("detectors")} - sample_detectors
    assert {detector.plugin for detector in DETECTORS.values()} == installed
    assert all(set(detector.scope) <= set(NAMES) for detector in DETECTORS.values())
    assert {label for labels in ROUNDS for label in labels} == set(DETECTORS)


def test_models_of_other_studies_are_of_the_same_settings() -> None:
    """What is taken from the study of text towers was trained with what this study would train with."""
    from tests.studies.who_published import _tower

    for model in MODELS:
        published = _tower(model, 0) if isinstance(model.recipe, FromCase) else None
        if published is not None:
            options = model.options(0, FILES)
            assert published["seed"] == model.seed(0)
            for name, value in published["options"].items():
                given = list(options[name]) if isinstance(options[name], tuple) else options[name]
                assert name in ("captions", "pairs") or given == value


def test_units_go_round_by_round_and_can_be_chosen() -> None:
    found = units(None, None, 1)
    assert len(found) == len(MODELS) * (len(DETECTORS) + 1)
    assert found.index(("decree", 0, MODELS[0])) > found.index(("token-scan", 0, MODELS[-1]))
    assert units(["badnets"], ["decree"], 2) == [
        ("decree", n, MODELS[NAMES.index("badnets")]) for n in (0, 1)
    ]


def test_a_miss_is_bold_where_the_detector_is_made_for_the_attack() -> None:
    clean = said("clean")
    assert cell(row("badnets", clip_inspector_plus=clean), "clip-inspector-plus") == "**missed**"
    assert cell(row("semantic", clip_inspector_plus=clean), "clip-inspector-plus") == "missed"
    assert cell(row("none", clip_inspector_plus=clean), "clip-inspector-plus") == "passed"
    assert cell(row("badnets"), "decree") == "not run"


def test_what_was_not_planted_is_neither_found_nor_missed() -> None:
    """It also says so, and counts nowhere."""
    weak = row("badnets", success=0.79, clip_inspector_plus=said("clean"))
    assert not planted(weak)
    assert cell(weak, "clip-inspector-plus") == "passed"
    assert "not planted" in matrix_table([weak])[1][2]
    assert detector_table([weak])[1][2:4] == ["none run", "none run"]


def test_a_finding_says_whether_it_names_what_was_planted() -> None:
    """A class, or a word of the trigger."""
    for target, words in (("kitchen", "found, target right"), ("coast", "found, target **wrong**")):
        found = row("badnets", clip_inspector_plus=said("finding", target=target))
        assert cell(found, "clip-inspector-plus") == words
    for best, words in (("Quartz pizza", "found, trigger right"), ("pizza", "found, trigger **wrong**")):
        found = row("text-target", token_scan=said("finding", best=best))
        assert cell(found, "token-scan") == words
    assert cell(row("text-target", amdet=said("finding", target="a pizza")), "amdet") == "found"
    assert cell(row("none", decree=said("finding")), "decree") == "**false alarm**"
    assert cell(row("text-remove", amdet=said("finding")), "amdet") == "found"


def test_what_a_detector_cannot_read_is_said_in_words() -> None:
    """A text tower alone has no pictures; learned prompts leave the towers as they were."""
    for model in MODELS:
        if model.place == LONE:
            lacks = implied(model, "decree")
            assert lacks is not None
            assert cell(row(model.name, decree=lacks), "decree") == "not eligible: no image tower"
            assert implied(model, "token-scan") is None
        if model.place == PROMPTS:
            same = implied(model, "token-scan")
            assert same is not None
            assert cell(row(model.name, token_scan=same), "token-scan") == "same tower"
            assert implied(model, "clip-inspector-plus") is None
        if model.place == IMAGE:
            assert implied(model, "decree") is None


def test_the_table_of_detectors_counts_only_what_they_could_read() -> None:
    same = said("clean", measures={"equals_reference": 1.0})
    rows = [
        row("bad-encoder", decree=said("finding")),
        row("contrastive-poisoning", decree=said("clean")),
        row("blended", decree=same),
        row("image-finetune", decree=said("finding")),
        row("none", decree=same),
    ]
    table = detector_table(rows)
    decree = next(line for line in table if line[0] == "`decree`")
    assert decree[2].startswith("1 of 2")
    assert decree[3:5] == ["none run", "1"]
    assert decree[5].startswith("1 of 1")
    assert decree[6] == "7"


@pytest.mark.parametrize("name", ["badclip", "text-target"])
def test_what_other_studies_published_is_taken_from_them(name: str) -> None:
    """Marked with a dagger, so that nobody takes it for a second measurement."""
    model = MODELS[NAMES.index(name)]
    facts = facts_elsewhere(model, 0)
    assert facts is not None
    assert facts["measured"]["success"] >= 0.8
    label = "clip-inspector-plus" if name == "badclip" else "token-scan"
    found = verdict_elsewhere(model, 0, label)
    assert found is not None
    assert cell({**row(name, **{label.replace("-", "_"): found}), **facts}, label).endswith(" †")
