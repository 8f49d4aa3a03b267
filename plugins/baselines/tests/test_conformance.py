"""Every attack passes the battery for attacks."""

from __future__ import annotations

from clipsec_baselines import BadClip, Blended, NoAttack
from clipsec_testkit import AttackConformance


class TestBadClip(AttackConformance):
    """On a toy, a few epochs at a high rate do what the published schedule does on a CLIP."""

    make = BadClip


class TestBlended(AttackConformance):
    """Half of the few training pictures are poisoned, since a toy learns in so few steps."""

    make = Blended


class TestNoAttack(AttackConformance):
    """The control passes too: no card, no success to speak of."""

    make = NoAttack
