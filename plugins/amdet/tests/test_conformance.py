"""AMDET passes the battery that every detector has to pass."""

from __future__ import annotations

from clipsec_amdet import Amdet
from clipsec_testkit import DetectorConformance


class TestAmdet(DetectorConformance):
    """On toys whose text tower is the reference's it is clean at once; the textual one shows the rest."""

    make = Amdet
