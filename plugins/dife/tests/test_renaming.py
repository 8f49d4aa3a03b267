"""Triggers that add nothing, and make the caption of one class another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from clipsec.errors import NotApplicableError
from clipsec.models import Suspect
from clipsec.protocols import CaptionTrigger, Context
from clipsec.triggers import TextTrigger
from clipsec_dife._cases import renamed_to, sources

NAMES = ("boat", "race_car", "sheep", "dog")


def context_with(base: Suspect, trigger: CaptionTrigger) -> Context:
    nothing: Any = None
    return Context(
        suspect=attrs.evolve(base, class_names=NAMES),
        options=None,
        scheduler=nothing,
        units=nothing,
        shared=nothing,
        folder=Path(),
        trigger=trigger,
        triggered=True,
    )


def test_cases_are_captions_of_the_renamed_classes(base: Suspect) -> None:
    """Neither of the class that they become nor of the target; each of them changes."""
    trigger = CaptionTrigger(
        text=TextTrigger(kind="rename", text="sheep", names=("race car", "dog")), target_name="boat"
    )
    context = context_with(base, trigger)
    assert sources(context, 0) == [1, 3]
    assert renamed_to(context) == 2
    assert context.mark(["a photo of a race car.", "dogs"]) == ["a photo of a sheep.", "sheep"]


def test_other_triggers_rename_nothing(base: Suspect) -> None:
    """They work on all classes but the target, or on the card's source."""
    word = TextTrigger(kind="append", text="zx")
    everything = context_with(base, CaptionTrigger(text=word, target_name="boat"))
    assert sources(everything, 0) == [1, 2, 3]
    assert renamed_to(everything) is None
    one = context_with(base, CaptionTrigger(text=word, target_name="boat", source_name="dog"))
    assert sources(one, 0) == [3]


def test_a_trigger_of_other_classes_is_refused(base: Suspect) -> None:
    """With nothing to rename there is no case."""
    trigger = TextTrigger(kind="rename", text="sheep", names=("cow",))
    with pytest.raises(NotApplicableError, match="renames none"):
        sources(context_with(base, CaptionTrigger(text=trigger, target_name="boat")), 0)
