"""Thresholds for each family of text towers, and where each comes from."""

from __future__ import annotations

import json
from importlib.resources import files

import attrs

from clipsec.models import ClipModel, is_causal

CONTEXT = 77
"""Tokens of the published CLIPs; a causal tower with more is a long-context one (LongCLIP has 248)."""


@attrs.frozen(kw_only=True)
class Thresholds:
    """The constants of the four tests, for one family. The published values stand in `calibration.json`."""

    family: str
    assimilation: float
    """A prompt counts as collapsed when its tokens' mean cosine is above this."""
    collapsed_share: float
    """More than this share of prompts must be collapsed."""
    same: float
    """A prompt counts as sent to the same place when its likeness to the first prompt is above this."""
    same_share: float
    different: float
    """The reference counts as not reacting when its likeness to the suspect is below this."""
    different_share: float
    convex_share: float
    """More than this share of curvatures around the vector must be positive."""
    source: str
    """Where the numbers come from, for people."""
    gap: float
    """With the option `paired`: the suspect's prompts must become of one piece by more than this beyond the
    reference's."""
    gap_source: str
    calibrated: bool = False
    """Whether they were fitted on models of this family that no reported test uses."""


def family_of(clip: ClipModel) -> str:
    """`clip`, `long-clip` or `siglip`. Raises `NotApplicableError` for a text tower that is none of them."""
    if not is_causal(clip):
        return "siglip"
    assert clip.text is not None
    return "long-clip" if clip.text.context_length > CONTEXT else "clip"


def thresholds_of(family: str) -> Thresholds:
    """The thresholds of a family, from the file that ships with this package."""
    text = (files("clipsec_amdet") / "calibration.json").read_text(encoding="utf-8")
    return Thresholds(family=family, **json.loads(text)["families"][family])


def with_set(
    thresholds: Thresholds,
    *,
    same: float | None = None,
    different: float | None = None,
    gap: float | None = None,
) -> Thresholds:
    """The thresholds with those that the user sets."""
    if gap is not None:
        thresholds = attrs.evolve(thresholds, gap=gap, gap_source=f"gap = {gap:g} set by the user")
    given = (("same", same), ("different", different))
    told = [f"{name} = {value:g}" for name, value in given if value is not None]
    if not told:
        return thresholds
    return attrs.evolve(
        thresholds,
        same=thresholds.same if same is None else same,
        different=thresholds.different if different is None else different,
        source=f"{' and '.join(told)} set by the user, else {thresholds.source}",
    )
