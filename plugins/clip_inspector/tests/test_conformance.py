"""CLIP-Inspector passes the battery that every detector has to pass, its repair that of repairs."""

from __future__ import annotations

from clipsec_clip_inspector import ClipInspector, ClipInspectorPlus, PromptFinetune
from clipsec_testkit import DetectorConformance, RepairConformance


class TestClipInspector(DetectorConformance):
    """Inversion finds what is planted in pictures; a backdoor in the text tower is not its business."""

    make = ClipInspector


class TestClipInspectorPlus(DetectorConformance):
    """So do probes and inversion together."""

    make = ClipInspectorPlus


class TestPromptFinetune(RepairConformance):
    """From an inverted trigger, the planted one is unlearned; a clean toy that was flagged is not harmed."""

    make = PromptFinetune
