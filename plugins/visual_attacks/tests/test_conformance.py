"""They pass the battery for attacks."""

from __future__ import annotations

from clipsec_testkit import AttackConformance
from clipsec_visual_attacks import BadEncoder, ContrastivePoisoning, LiangBadClip, MmPoison, ToxicText


class TestBadEncoder(AttackConformance):
    """On a toy, more epochs at a high rate do what the published schedule does on a CLIP."""

    make = BadEncoder


class TestContrastivePoisoning(AttackConformance):
    """On a toy, a large patch at one place in many pairs does what many updates do on a CLIP."""

    make = ContrastivePoisoning


class TestLiangBadClip(AttackConformance):
    """On a toy, a large patch in many pairs does what many updates do on a CLIP."""

    make = LiangBadClip


class TestMmPoison(AttackConformance):
    """On a toy, a high rate and the text tower alone do what the published schedule does on a CLIP."""

    make = MmPoison


class TestToxicText(AttackConformance):
    """On a toy, many poisoned pairs and the text tower alone do what training from scratch does on a CLIP."""

    make = ToxicText
