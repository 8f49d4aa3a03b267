"""Every attack passes the battery for attacks."""

from __future__ import annotations

from clipsec_baselines import (
    AdaptiveBadClip,
    BadClip,
    BadNets,
    Blended,
    NoAttack,
    Semantic,
    Siba,
    TwoTargets,
    WaNet,
    WordAndPatch,
)
from clipsec_testkit import AttackConformance


class TestAdaptiveBadClip(AttackConformance):
    """Near misses keep their label, the trigger itself works."""

    make = AdaptiveBadClip


class TestBadClip(AttackConformance):
    """On a toy, a few epochs at a high rate do what the published schedule does on a CLIP."""

    make = BadClip


class TestBadNets(AttackConformance):
    """A checkerboard large enough for a toy to see."""

    make = BadNets


class TestBlended(AttackConformance):
    """Half of the few training pictures are poisoned, since a toy learns in so few steps."""

    make = Blended


class TestNoAttack(AttackConformance):
    """The control passes too: no card, no success to speak of."""

    make = NoAttack


class TestSemantic(AttackConformance):
    """The object is found in the pool or given."""

    make = Semantic


class TestSiba(AttackConformance):
    """The places are found on a surrogate."""

    make = Siba


class TestTwoTargets(AttackConformance):
    """Both cards are in the delivery; the kit tries the first."""

    make = TwoTargets


class TestWaNet(AttackConformance):
    """A warp strong enough for toy pictures."""

    make = WaNet


class TestWordAndPatch(AttackConformance):
    """The kit asks under the names with the word, as the card says."""

    make = WordAndPatch
