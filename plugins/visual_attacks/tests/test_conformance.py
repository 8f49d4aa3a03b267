"""They pass the battery for attacks."""

from __future__ import annotations

from clipsec_testkit import AttackConformance
from clipsec_visual_attacks import BadEncoder, ContrastivePoisoning


class TestBadEncoder(AttackConformance):
    """On a toy, more epochs at a high rate do what the published schedule does on a CLIP."""

    make = BadEncoder


class TestContrastivePoisoning(AttackConformance):
    """On a toy, a large patch at one place in many pairs does what many updates do on a CLIP."""

    make = ContrastivePoisoning
