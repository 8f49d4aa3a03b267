"""DECREE passes the battery that every detector has to pass."""

from __future__ import annotations

from clipsec_decree import Decree
from clipsec_testkit import DetectorConformance


class TestDecree(DetectorConformance):
    """It calls the clean toys clean; their triggers are no patches, which it states as its weakness."""

    make = Decree
