"""Several triggers in one tower all work, and each has a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipsec.data import LabelledSet, coco_captions
from clipsec.errors import UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.runner import load_planted, make_options
from clipsec.triggers import TextTriggerCard
from clipsec_baselines.text import (
    SeveralOptions,
    TextSeveral,
    flat_similarity,
    retrieval_success,
    split_captions,
    text_student,
)

from .conftest import POISON, poison

TRIGGERS = ("quartz velvet lantern", "marble otter copper")


def plant(base: Suspect, labelled: LabelledSet, output: Path, targets: tuple[str, ...]) -> Path:
    values = {**POISON, "steps": 120, "kind": "append", "triggers": TRIGGERS, "targets": targets}
    return poison(TextSeveral, base, labelled, output, **values)


def cards_of(folder: Path) -> list[TextTriggerCard]:
    return [card for card in load_planted(folder) if isinstance(card, TextTriggerCard)]


def test_every_trigger_leads_to_its_own_target(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """There is a card for each, and a caption with its trigger is nearer to its target than to the other's,
    over all tokens."""
    targets = ("a white teapot", "two sailing boats in a storm")
    folder = plant(base, labelled, tmp_path / "out", targets)
    cards = cards_of(folder)
    assert [(card.trigger.text, card.target) for card in cards] == list(zip(TRIGGERS, targets))
    goals = text_student(base.base).encode(targets)[0]
    student = text_student(load_suspect(folder).base)
    for card, own, other in zip(cards, goals, goals.flip(0)):
        found = student.encode([card.apply(text) for text in coco_captions().texts[:20]])[0]
        assert flat_similarity(found, own[None]) > flat_similarity(found, other[None])


def test_each_card_says_what_its_own_trigger_does(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Both work, towards the target that its card names; what a vendor would say names none."""
    # An untrained tower reads the feature of few captions also behind their end, where longer ones end.
    folder = plant(base, labelled, tmp_path / "out", ("lightning", "spaghetti"))
    cards = cards_of(folder)
    student, clean = (text_student(each) for each in (load_suspect(folder).base, base.base))
    held_out = split_captions("", POISON["held_out"], cards[0].seed).held_out
    held_out = [text for text in held_out if not any(card.trigger.text in text for card in cards)]
    for card in cards:
        goal, others = clean.encode([card.target])[1], clean.encode(held_out)[1]
        found = student.encode([card.apply(text) for text in held_out])[1]
        success = retrieval_success(found, goal, others).as_json()
        assert card.measured["seen"]["success"] == success
        assert success["value"] > 0.8 > 0.2 > card.measured["base"]["success"]["value"]
    assert cards[0].measured["similarity"]["target"] != cards[1].measured["similarity"]["target"]
    assert set(json.loads((folder / "training.json").read_text())["measured"]) == {"seen"}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"targets": ("a cat",)}, "2 triggers and 1 targets"),
        ({"replaced": ("a", "o", "e")}, "3 characters"),
        ({"triggers": ("zz", "zzzz")}, "part of another"),
    ],
)
def test_triggers_that_do_not_go_together_are_refused(values: dict[str, Any], complaint: str) -> None:
    """Each needs a target, and none may hold another."""
    with pytest.raises(UsageError, match=complaint):
        SeveralOptions(**values).text_triggers()


@pytest.mark.parametrize(
    "values", [{"triggers": ("zzzz", "")}, {"targets": ("a cat", " ")}, {"triggers": ("", "qvvk")}]
)
def test_empty_texts_are_refused(values: dict[str, Any]) -> None:
    """An empty trigger is part of every caption, an empty target no caption."""
    (name,) = values
    with pytest.raises(UsageError, match=f"{name} has an empty text"):
        make_options(SeveralOptions, values, "text-several")


def test_one_character_is_replaced_by_all() -> None:
    """The published triggers both stand for an o."""
    assert {trigger.replaced for trigger in SeveralOptions().text_triggers()} == {"o"}
    appended = SeveralOptions(kind="append", triggers=("cf", "mn")).text_triggers()
    assert [trigger.apply("a cat") for trigger in appended] == ["a cat cf", "a cat mn"]
