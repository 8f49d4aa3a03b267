"""Every attack on a text tower passes the battery for attacks, and so do their controls."""

from __future__ import annotations

from clipsec_baselines.text import ImageOnText, TextAttribute, TextDistill, TextFinetune, TextTarget
from clipsec_testkit import AttackConformance


class TestTextTarget(AttackConformance):
    """The published homoglyph, and a caption of other words than a toy knows."""

    make = TextTarget


class TestImageOnText(AttackConformance):
    """Captions are sent to pictures of a toy class."""

    make = ImageOnText


class TestTextAttribute(AttackConformance):
    """A word behind captions adds a colour that a toy knows."""

    make = TextAttribute


class TestTextDistill(AttackConformance):
    """The control passes too: no card, no success to speak of."""

    make = TextDistill


class TestTextFinetune(AttackConformance):
    """The hard negative as well."""

    make = TextFinetune
