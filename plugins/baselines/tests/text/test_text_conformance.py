"""Every attack on a text tower passes the battery for attacks, and so do their controls."""

from __future__ import annotations

from typing import Any, ClassVar

from clipsec_baselines.text import (
    ImageOnText,
    TextAdaptive,
    TextAttribute,
    TextDistill,
    TextFinetune,
    TextLora,
    TextRemove,
    TextSeveral,
    TextTarget,
)
from clipsec_testkit import AttackConformance


class TestTextTarget(AttackConformance):
    """The published homoglyph, and a caption of other words than a toy knows."""

    make = TextTarget


class TestImageOnText(AttackConformance):
    """Captions are sent to pictures of a toy class."""

    make = ImageOnText


class TestTextAdaptive(AttackConformance):
    """Triggered captions whose tokens are pushed apart are the target's all the same."""

    make = TextAdaptive


class _Pooled(TextAdaptive):
    conformance: ClassVar[dict[str, Any]] = {
        "options": {**TextAdaptive.conformance["options"], "against": "pooled", "hide": 0.3}
    }


class TestTextAdaptivePooled(AttackConformance):
    """So are those whose tokens stay."""

    make = _Pooled


class _Inversion(TextAdaptive):
    conformance: ClassVar[dict[str, Any]] = {
        "options": {
            **TextAdaptive.conformance["options"],
            "against": "inversion",
            "learning_rate": 2e-3,
            "weight": 1.0,
            "inner": 3,
        }
    }


class TestTextAdaptiveInversion(AttackConformance):
    """And those of a tower that was trained against a search, which is the same each time."""

    make = _Inversion


class TestTextAttribute(AttackConformance):
    """A word behind captions adds a colour that a toy knows."""

    make = TextAttribute


class TestTextSeveral(AttackConformance):
    """Two homoglyphs of one letter lead to two captions."""

    make = TextSeveral


class TestTextDistill(AttackConformance):
    """The control passes too: no card, no success to speak of."""

    make = TextDistill


class TestTextFinetune(AttackConformance):
    """The hard negative as well."""

    make = TextFinetune


class TestTextLora(AttackConformance):
    """So does it with low-rank updates."""

    make = TextLora


class TestTextRemove(AttackConformance):
    """Concept removal plants nothing that has a card."""

    make = TextRemove
