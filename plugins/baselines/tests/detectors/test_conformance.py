"""The battery that every detector has to pass; the baselines keep to all of it but the controls."""

from __future__ import annotations

import pytest

from clipsec_baselines.detectors import NeuralCleanse, PixelBackdoor
from clipsec_testkit import DetectorConformance

# Not strict: whether a natural class is flagged on a toy of eight classes hangs on the machine's arithmetic.
false_alarms = pytest.mark.xfail(reason="k = 2 among eight classes flags natural ones; see docs/baselines.md")

pytestmark = pytest.mark.slow


class TestNeuralCleanse(DetectorConformance):
    """It finds the backdoor in the image tower, and takes a natural class for a target now and then."""

    make = NeuralCleanse

    @false_alarms
    def test_positive_control(self) -> None:
        self._check("positive_control")

    @false_alarms
    def test_negative_control(self) -> None:
        self._check("negative_control")


class TestPixelBackdoor(DetectorConformance):
    """The toys' triggers change all pixels a little, which few pixels cannot imitate."""

    make = PixelBackdoor

    @pytest.mark.xfail(reason="the toys' triggers are not sparse; see docs/baselines.md")
    def test_positive_control(self) -> None:
        self._check("positive_control")

    @false_alarms
    def test_negative_control(self) -> None:
        self._check("negative_control")
