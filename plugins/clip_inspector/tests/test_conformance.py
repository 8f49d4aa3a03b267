"""CLIP-Inspector passes the battery that every detector has to pass."""

from __future__ import annotations

from clipsec_clip_inspector import ClipInspector
from clipsec_testkit import DetectorConformance


class TestClipInspector(DetectorConformance):
    """Inversion finds what is planted in pictures; a backdoor in the text tower is not its business."""

    make = ClipInspector
