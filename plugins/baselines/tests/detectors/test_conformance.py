"""The battery that every detector has to pass; what the baselines are weak at is in their `conformance`."""

from __future__ import annotations

import pytest

from clipsec_baselines.detectors import NeuralCleanse, PixelBackdoor
from clipsec_testkit import DetectorConformance

pytestmark = pytest.mark.slow


class TestNeuralCleanse(DetectorConformance):
    """It finds the backdoor in the image tower, and takes a natural class for a target now and then."""

    make = NeuralCleanse


class TestPixelBackdoor(DetectorConformance):
    """The toys' triggers change all pixels a little, which few pixels cannot imitate."""

    make = PixelBackdoor
