"""It passes the battery for attacks."""

from __future__ import annotations

from clipsec_bad_text_tower import BadTextTower, ImageFinetune
from clipsec_testkit import AttackConformance


class TestBadTextTower(AttackConformance):
    """On a toy, more epochs at a high rate do what the published schedule does on a CLIP."""

    make = BadTextTower


class TestImageFinetune(AttackConformance):
    """The control passes too: no card, accuracy kept."""

    make = ImageFinetune
