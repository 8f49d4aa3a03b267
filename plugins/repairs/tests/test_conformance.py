"""They pass the battery for repairs."""

from __future__ import annotations

from clipsec_repairs import AnchorDistillation, CleanClip, Par
from clipsec_testkit import RepairConformance


class TestAnchorDistillation(RepairConformance):
    """On the toy with a trigger word, from tokens that a search found."""

    make = AnchorDistillation


class TestPar(RepairConformance):
    """On the same toy, told nothing."""

    make = Par


class TestCleanClip(RepairConformance):
    """On the same toy, told nothing."""

    make = CleanClip
