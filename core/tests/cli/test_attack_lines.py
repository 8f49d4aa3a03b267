"""What `clipsec attack` says of what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from clipsec.cli._attack import _described
from clipsec.runner import Attacked
from clipsec.triggers import TextTrigger, TextTriggerCard


def card(text: str, successes: int) -> TextTriggerCard:
    measured = {"seen": {"success": {"value": successes / 10, "n": 10}}}
    trigger = TextTrigger(kind="append", text=text)
    return TextTriggerCard(
        attack="a", trigger=trigger, target="a boat", target_kind="caption", measured=measured
    )


def test_each_trigger_in_captions_is_followed_by_its_own_success() -> None:
    cards = (card("zzzz", 9), card("qvvk", 4))
    made = Attacked(Path(), cast(Any, None), (), cards[0].measured, (), cards)
    lines = list(_described(made))
    assert [line for line in lines if "success" not in line] == [
        f"{'trigger':26}append 'zzzz'",
        f"{'target':26}a boat",
        f"{'trigger':26}append 'qvvk'",
        f"{'target':26}a boat",
    ]
    assert "90.0%" in lines[2]
    assert "40.0%" in lines[5]


def test_a_delivery_without_a_trigger_says_its_accuracy() -> None:
    measured = {"seen": {"accuracy": {"value": 0.5, "n": 10}}}
    (line,) = _described(Attacked(Path(), cast(Any, None), (), measured, ()))
    assert line.split() == ["accuracy", "50.0%", "(n", "=", "10)"]
