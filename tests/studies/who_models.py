"""The models of docs/who_sees_what.md: one of each attack, some in variants, and benign ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from clipsec.bench import read_suite
from clipsec.triggers import is_text_card
from clipsec.triggers._kinds import card_folders

from .amdet_models import ADAPTIVE, BLIND, PARTS, Case, options_of
from .exposure_mini import PLANS, Plan

SUITES = Path(__file__).resolve().parents[1] / "suites"
PROMPTS, IMAGE, TEXT, BOTH, LONE = "prompts", "image tower", "text tower", "both towers", "text tower alone"
PLACES = (PROMPTS, IMAGE, BOTH, TEXT, LONE)
"""What differs from the base. `LONE`: nothing else is delivered."""
PICTURE, CAPTION = "picture", "caption"
SCENES, CIFAR = "scene15", "cifar10"


@attrs.frozen
class FromSuite:
    """An attack with the settings of a suite of tests/suites, in CoCoOp on the Scenes."""

    suite: str
    label: str
    first: int = 12
    """Seed of number 0. The suites have results of 11 to 13."""


@attrs.frozen
class FromCase:
    """A tower of docs/amdet_study.md; by number `first`, `first + step` and so on."""

    kind: str
    plugin: str
    first: int = 2
    """0 and 1 were known when the token scan was given its score."""
    step: int = 1


@attrs.frozen
class Model:
    """One kind of model."""

    name: str
    plugin: str
    place: str
    trigger: str
    """What the trigger is put on; empty for a benign model."""
    recipe: Plan | FromSuite | FromCase

    @property
    def benign(self) -> bool:
        return not self.trigger

    def seed(self, number: int) -> int:
        match self.recipe:
            case FromSuite(first=first):
                return first + number
            case FromCase():
                return self.case(number).seed
        return number

    def case(self, number: int) -> Case:
        assert isinstance(self.recipe, FromCase)
        place = self.recipe.first + self.recipe.step * number
        return Case("clip", "test", self.recipe.kind, self.recipe.plugin, place)

    def options(self, number: int, files: dict[str, str]) -> dict[str, Any]:
        """As `clipsec.runner.attack` takes them; `files` are caption and pair files by name."""
        match self.recipe:
            case FromSuite(suite=name, label=label):
                suite = read_suite(SUITES / f"{name}.toml")
                planted = suite.attacks[label].settings if label in suite.attacks else {}
                return {**suite.learners["cocoop"].settings, **planted}
            case FromCase():
                return options_of(self.case(number), files)
        return self.recipe.options


def _exposed(name: str, place: str, trigger: str) -> Model:
    plan = next(plan for plan in PLANS if plan.name == name)
    return Model(name, plan.plugin, place, trigger, plan)


def _prompts(name: str, suite: str = "mini", label: str = "", plugin: str = "", first: int = 12) -> Model:
    recipe = FromSuite(suite, label or name, first)
    return Model(name, plugin or name, PROMPTS, "" if name == "none" else PICTURE, recipe)


def _tower(
    name: str, kind: str, plugin: str = "", first: int = 2, step: int = 1, trigger: str = CAPTION
) -> Model:
    return Model(name, plugin or name, LONE, trigger, FromCase(kind, plugin or name, first, step))


MODELS: tuple[Model, ...] = (
    _prompts("badclip"),
    _prompts("badclip-adaptive"),
    _prompts("badnets"),
    _prompts("badnets-32", "mini_beyond", "patch-32", "badnets"),
    _prompts("blended"),
    _prompts("semantic", "mini_beyond"),
    _prompts("siba", first=13),
    _prompts("two-targets", "mini_beyond"),
    _prompts("wanet"),
    _prompts("word-and-patch", "mini_beyond"),
    _exposed("bad-encoder", IMAGE, PICTURE),
    _exposed("contrastive-poisoning", BOTH, PICTURE),
    _exposed("liang-badclip", BOTH, PICTURE),
    _exposed("bad-text-tower", TEXT, CAPTION),
    _exposed("bad-text-tower-eurosat", TEXT, CAPTION),
    _exposed("mm-poison", TEXT, CAPTION),
    _exposed("toxic-text", TEXT, CAPTION),
    _tower("text-target", "text-target"),
    _tower("text-target-parts", PARTS, "text-target"),
    _tower("image-on-text", "image-on-text"),
    _tower("text-several", "text-several"),
    _tower("text-attribute", BLIND),
    _tower("text-adaptive-assimilation", ADAPTIVE, "text-adaptive", first=3, step=3),
    _tower("text-adaptive-pooled", ADAPTIVE, "text-adaptive", first=4, step=3),
    _tower("text-adaptive-inversion", ADAPTIVE, "text-adaptive", first=2, step=3),
    _prompts("none", label="clean"),
    _exposed("image-finetune", IMAGE, ""),
    _tower("text-distill", "text-target", trigger=""),
    _exposed("text-finetune", LONE, ""),
    _tower("text-finetune-pairs", "text-target", "text-finetune", first=4, step=3, trigger=""),
    _tower("text-finetune-harsh", "image-on-text", "text-finetune", first=3, step=6, trigger=""),
    _tower("text-lora", "text-lora", trigger=""),
    _tower("text-remove", "text-remove", first=0, trigger=""),
)
"""`badnets`: a checkerboard of 56 of 128 pixels, `badnets-32` one of 32. `text-finetune` learns from
pictures of classes, the others from pairs, the harsh one at 3e-4."""
APART = ("text-remove",)
"""Benign by intent, though a mapping is planted: counted neither way."""


def facts(folder: Path) -> dict[str, Any]:
    """What a delivery states of itself: targets, triggers in words, success of the weakest trigger, the
    largest on the base, and accuracy."""
    bodies = [
        json.loads((place / "trigger.json").read_text(encoding="utf-8")) for place in card_folders(folder)
    ]
    if not bodies:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        return {"targets": [], "words": [], "measured": rates([record.get("measured", {})])}
    pictures = [not is_text_card(place) for place in card_folders(folder)]
    return {
        "targets": [
            body["target_name" if seen else "target"] for body, seen in zip(bodies, pictures, strict=True)
        ],
        "words": [body["text"] for body, seen in zip(bodies, pictures, strict=True) if not seen],
        "measured": rates([body["measured"] for body in bodies]),
    }


def rates(parts: list[Mapping[str, Any]]) -> dict[str, float]:
    """Success of the weakest trigger, the largest on the base, and accuracy, of what cards measured."""
    found = {}
    for key, part, name, choose in (
        ("success", "seen", "success", min),
        ("on_base", "base", "success", max),
        ("accuracy", "seen", "accuracy", min),
    ):
        values = [each[part][name] for each in parts if name in each.get(part, {})]
        values = [each["value"] if isinstance(each, Mapping) else each for each in values]
        if values:
            found[key] = choose(values)
    return found
