"""Whether a poisoned model counts as one."""

from __future__ import annotations

import attrs
import pytest

from clipsec.bench._measured import Measured, Share, why_not
from clipsec.bench._suite import Rules

RULES = Rules(min_success=0.85, max_loss=0.03, max_on_base=0.5)
CLEAN = Measured(accuracy=Share(0.9, 100))
GOOD = Measured(
    accuracy=Share(0.88, 100), success=Share(0.9, 90), base_success=Share(0.1, 90), targets=("cat",)
)


def test_a_strong_harmless_learned_backdoor_counts() -> None:
    """Nothing is said against it; exactly the allowed loss of accuracy is allowed."""
    assert list(why_not(GOOD, CLEAN, RULES)) == []
    edge = attrs.evolve(GOOD, accuracy=Share(0.9 - 0.03, 100))
    assert list(why_not(edge, CLEAN, RULES)) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"success": Share(0.85, 90)}, "success 0.850 is not above 0.85"),
        ({"accuracy": Share(0.86, 100)}, "more than 0.03 below the clean model's 0.900"),
        ({"base_success": Share(0.5, 90)}, "0.500 on the base without the prompts"),
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
