"""Whether a poisoned model counts as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import torch

from clipsec.bench._measured import Measured, measured_from_json, measured_of, plain_rate, why_not
from clipsec.bench._suite import Rules
from clipsec.results import Rate
from clipsec.runner import Attacked
from clipsec.stats import wilson
from clipsec.triggers import Stamp, TextTrigger, TextTriggerCard, TriggerCard

RULES = Rules(min_success=0.85, max_loss=0.03, max_on_base=0.5)


def rate(successes: int, n: int = 100) -> Rate:
    return Rate(successes, n, wilson(successes, n))


CLEAN = Measured(accuracy=rate(90))
GOOD = Measured(accuracy=rate(88), success=rate(81, 90), base_success=rate(9, 90), targets=("cat",))


def test_a_strong_harmless_learned_backdoor_counts() -> None:
    """Nothing is said against it; exactly the allowed loss of accuracy is allowed."""
    assert list(why_not(GOOD, CLEAN, RULES)) == []
    edge = attrs.evolve(GOOD, accuracy=rate(87))
    assert list(why_not(edge, CLEAN, RULES)) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"success": rate(85)}, "success 0.850 is not above 0.85"),
        ({"accuracy": rate(86)}, "more than 0.03 below the clean model's 0.900"),
        ({"base_success": rate(45, 90)}, "0.500 on the base without the prompts"),
        ({"success": None}, "its success was not measured"),
        ({"accuracy": None}, "its accuracy was not measured"),
        ({"base_success": None}, "what its trigger does to the base was not measured"),
        ({"targets": ()}, "no trigger card with a target"),
    ],
)
def test_anything_else_says_why(changes: dict[str, object], why: str) -> None:
    """One reason for each fault; what was not measured counts against the model."""
    (reason,) = why_not(attrs.evolve(GOOD, **changes), CLEAN, RULES)
    assert why in reason


def test_without_a_clean_model_nothing_counts() -> None:
    """There is nothing to compare accuracy with, so it may have been harmed."""
    for reference in (None, Measured()):
        (reason,) = why_not(GOOD, reference, RULES)
        assert "no accuracy of a clean model" in reason


def card(target: str, success: Any, on_base: float = 0.1) -> TriggerCard:
    return TriggerCard(
        attack="a",
        stamp=Stamp("additive", {"delta": torch.zeros(3, 4, 4)}),
        target_index=0,
        target_name=target,
        measured={
            "seen": {"accuracy": {"value": 0.9, "n": 40}, "success": success},
            "base": {"success": {"value": on_base, "n": 30}},
        },
    )


def of(*cards: TriggerCard) -> Measured:
    return measured_of(Attacked(Path(), cast(Any, None), cards, {}, ()))


def in_captions(target: str, value: float) -> TextTriggerCard:
    return TextTriggerCard(
        attack="a",
        trigger=TextTrigger(kind="append", text="zzzz"),
        target=target,
        target_kind="caption",
        measured={
            "seen": {"success": {"value": value, "n": 10}},
            "base": {"success": {"value": 0.0, "n": 10}},
        },
    )


def test_of_several_triggers_in_captions_the_weakest_counts() -> None:
    """Whichever card comes first."""
    cards = (in_captions("a teapot", 1.0), in_captions("a boat", 0.5))
    found = measured_of(Attacked(Path(), cast(Any, None), (), cards[0].measured, (), cards))
    assert found.success is not None
    assert found.success.successes == 5


def test_of_several_triggers_the_weakest_and_the_most_natural_count() -> None:
    """A model with one trigger that works and one that does not is not what its label says."""
    both = of(card("cat", {"value": 0.9, "n": 30}), card("dog", {"value": 0.5, "n": 30}, on_base=0.2))
    assert both.targets == ("cat", "dog")
    assert both.success is not None
    assert both.base_success is not None
    assert (both.success.successes, both.base_success.successes) == (15, 6)
    assert of(card("cat", {"value": 0.9, "n": 30}), card("dog", None)).success is None


@pytest.mark.parametrize(
    "stated",
    [None, 0.9, {"value": 0.9}, {"value": "0.9", "n": 30}, {"value": 1.2, "n": 30}, {"value": True, "n": 30}]
    + [{"value": 0.9, "n": n} for n in (0, -3, 30.0, True)],
)
def test_what_is_no_rate_was_not_measured(stated: Any) -> None:
    """A card is a file that anybody may have written."""
    assert of(card("cat", stated)).success is None


def test_stored_units_keep_their_form() -> None:
    """Value and number of pictures of each rate, as the first benches wrote them, there and back."""
    stored = {
        "accuracy": {"value": 1 / 3, "n": 30},
        "success": {"value": 0.9, "n": 30},
        "unseen_accuracy": None,
        "unseen_success": None,
        "base_success": {"value": 0.1, "n": 30},
        "targets": ["cat"],
    }
    read = measured_from_json(stored)
    assert json.loads(json.dumps(attrs.asdict(read, value_serializer=plain_rate))) == stored
