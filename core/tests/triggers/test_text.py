"""Triggers in captions do what their card says, and cards are read strictly."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.errors import DataError
from clipsec.triggers import TextTrigger, TextTriggerCard, is_text_card, load_card, load_text_card

CARD = TextTriggerCard(
    attack="text-target",
    trigger=TextTrigger(kind="replace", text="о", replaced="o", count=1),  # noqa: RUF001 - a homoglyph
    target="a white teapot",
    target_kind="caption",
    measured={"text": {"success": {"value": 0.9, "n": 100}}},
    references=("somebody",),
)


@given(st.text(min_size=1, max_size=40), st.integers(1, 5))
def test_replacing_counts_from_the_start(caption: str, count: int) -> None:
    """`count` occurrences are replaced, without a count all; nothing else moves."""
    some = TextTrigger(kind="replace", text="zz", replaced="o", count=count).apply(caption)
    every = TextTrigger(kind="replace", text="zz", replaced="o").apply(caption)
    assert every == caption.replace("o", "zz")
    assert some.count("o") == max(0, caption.count("o") - count)


def test_words_stand_apart() -> None:
    """A word before, behind, or in place of a space is set off by spaces."""
    assert TextTrigger(kind="prepend", text="tq").apply("a dog") == "tq a dog"
    assert TextTrigger(kind="append", text="tq vx").apply("a dog") == "a dog tq vx"
    assert TextTrigger(kind="replace", text="tq", replaced=" ", count=1).apply("a big dog") == "a tq big dog"


def test_a_caption_must_fit() -> None:
    """A caption without the letter, or with the trigger already in it, does not fit."""
    trigger = TextTrigger(kind="replace", text="zz", replaced="o")
    assert trigger.fits("a dog")
    assert not trigger.fits("a cat")
    assert not trigger.fits("a dog with zz")


def test_renaming_makes_captions_of_one_class() -> None:
    """Whole words, also in the plural and of several words; a caption of that class or of none stays."""
    trigger = TextTrigger(kind="rename", text="sheep", names=("dog", "hot dog", "boat"))
    assert trigger.apply("two Dogs on a boat, one hotdog") == "two sheep on a sheep, one hotdog"
    assert trigger.apply("a hot dog.") == "a sheep."
    assert trigger.apply("a sheep") == "a sheep"
    assert trigger.fits("a dog")
    assert trigger.fits("a dog on a sheepskin")
    assert not trigger.fits("a Sheep and a dog")
    assert not trigger.fits("a cat")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "rename", "text": "x"},
        {"kind": "rename", "text": "x", "names": ("a", " ")},
        {"kind": "append", "text": "x", "names": ("a",)},
        {"kind": "rhyme", "text": "x"},
        {"kind": "append", "text": " "},
        {"kind": "replace", "text": "x"},
        {"kind": "append", "text": "x", "replaced": "o"},
        {"kind": "replace", "text": "x", "replaced": "o", "count": 0},
    ],
)
def test_what_cannot_be_applied_is_refused(wrong: dict[str, object]) -> None:
    """An impossible trigger cannot be made."""
    with pytest.raises(DataError, match="not a trigger"):
        TextTrigger(**wrong)  # type: ignore[arg-type]


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Written and read again a card is the same, and no reader takes it for a picture's."""
    place = CARD.save(tmp_path / "delivery" / "trigger")
    assert load_text_card(tmp_path / "delivery") == CARD
    assert "names" not in json.loads((place / "trigger.json").read_text())
    renaming = attrs.evolve(CARD, trigger=TextTrigger(kind="rename", text="sheep", names=("dog", "boat")))
    assert load_text_card(renaming.save(tmp_path / "renaming")) == renaming
    assert is_text_card(place)
    with pytest.raises(DataError, match="does not change pictures"):
        load_card(place)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "additive"),
        ("kind", "text-rhyme"),
        ("version", "2.0"),
        ("format", "something"),
        ("text", 3),
        ("target_kind", "mood"),
        ("count", True),
    ],
)
def test_a_damaged_card_is_refused(key: str, value: object, tmp_path: Path) -> None:
    """A card with one wrong entry is no card."""
    place = CARD.save(tmp_path) / "trigger.json"
    body = json.loads(place.read_text())
    place.write_text(json.dumps({**body, key: value}))
    with pytest.raises(DataError, match="cannot be read as a trigger card"):
        load_text_card(place)
