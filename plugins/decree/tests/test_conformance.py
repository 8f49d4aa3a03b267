"""DECREE passes the battery that every detector has to pass."""

from __future__ import annotations

from clipsec_decree import Decree
from clipsec_testkit import DetectorConformance


class TestDecree(DetectorConformance):
    """On the toys the paired rule decides: a tower of width 32 gives way to small patches by itself."""

    make = Decree
