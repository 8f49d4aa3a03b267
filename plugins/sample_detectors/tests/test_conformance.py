"""Both detectors pass the battery that every detector has to pass."""

from __future__ import annotations

from clipsec_sample_detectors import BDetClip, LocalDensity
from clipsec_testkit import DetectorConformance


class TestLocalDensity(DetectorConformance):
    """It never calls a model clean, which it states as its weakness."""

    make = LocalDensity


class TestBDetClip(DetectorConformance):
    """It never calls a model clean, which it states as its weakness."""

    make = BDetClip
