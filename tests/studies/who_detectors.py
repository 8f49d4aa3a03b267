"""The detectors of docs/who_sees_what.md: settings, and what each is made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from .amdet import SEARCHES
from .decree_mini import SEARCH

CLASSES, CAPTIONS, WORDS = "a class", "captions near the target", "the trigger's words"
_STAMPS = ("badclip", "badclip-adaptive", "badnets", "badnets-32", "blended", "siba", "two-targets", "wanet")
_IN_TOWERS = ("bad-encoder", "contrastive-poisoning", "liang-badclip")
_ADAPTIVE = tuple(f"text-adaptive-{against}" for against in ("assimilation", "pooled", "inversion"))
_ONE_TARGET = ("text-target", "text-target-parts", "image-on-text", *_ADAPTIVE)


@attrs.frozen
class Detector:
    """A detector with its settings."""

    plugin: str
    made_for: str
    scope: tuple[str, ...]
    """Models whose backdoor is what it is made for, by its own page."""
    names: str
    """What a finding names."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    studies: tuple[tuple[str, str], ...] = ()
    """Suites that ran it with these settings, and its label there."""


DETECTORS: dict[str, Detector] = {
    "clip-inspector-plus": Detector(
        "clip-inspector-plus",
        "triggers on pictures like noise, warps, patches or bounded additions; its probes alone, the default",
        (*_STAMPS, *_IN_TOWERS),
        CLASSES,
        studies=(("mini", "probes"), ("beyond", "probes")),
    ),
    "clip-inspector": Detector(
        "clip-inspector",
        "bounded perturbations (8/255) of pictures; BadCLIP, Blended, SIBA and WaNet in the paper",
        ("badclip", "badclip-adaptive", "blended", "siba", "wanet"),
        CLASSES,
        {"schedule": "halving", "max_pictures": 320},
        (("detectors", "clip-inspector"),),
    ),
    "neural-cleanse": Detector(
        "neural-cleanse",
        "small patches on pictures",
        ("badnets", "badnets-32", "two-targets", *_IN_TOWERS),
        CLASSES,
        {"schedule": "proper", "max_pictures": 200},
        (("detectors", "neural-cleanse"),),
    ),
    "pixel-backdoor": Detector(
        "pixel-backdoor",
        "few changed pixels of pictures",
        ("badnets", "badnets-32", "siba", "two-targets", *_IN_TOWERS),
        CLASSES,
        {"schedule": "proper", "max_pictures": 200},
        (("detectors", "pixel-backdoor"),),
    ),
    "decree": Detector(
        "decree",
        "patches that an image tower gives one feature",
        _IN_TOWERS,
        CLASSES,
        SEARCH,
    ),
    "decree-paired": Detector(
        "decree",
        "the same, by half of what the reference needs (`rule=paired`)",
        _IN_TOWERS,
        CLASSES,
        {**SEARCH, "rule": "paired"},
    ),
    "amdet": Detector(
        "amdet",
        "one fixed target for every caption, in a text tower; as shipped",
        _ONE_TARGET,
        CAPTIONS,
    ),
    "amdet-paired": Detector(
        "amdet",
        "the same, by `paired` (settings of [the study](amdet_study.md))",
        _ONE_TARGET,
        CAPTIONS,
        SEARCHES["paired"][1],
    ),
    "token-scan": Detector(
        "token-scan",
        "trigger words in a text tower that work on any caption",
        (*_ONE_TARGET, "text-several", "text-attribute", "toxic-text"),
        WORDS,
    ),
}
ROUNDS = (
    ("amdet-paired", "token-scan", "clip-inspector-plus"),
    ("decree", "decree-paired"),
    ("amdet",),
    ("clip-inspector",),
    ("neural-cleanse", "pixel-backdoor"),
)
"""Cheap ones first."""
