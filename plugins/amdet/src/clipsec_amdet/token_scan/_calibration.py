"""The units of the score: which pull a single token, and which a sequence, must have to be a trigger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

import attrs

from clipsec_amdet.token_scan._scan import Candidate


@attrs.frozen
class Units:
    """Pulls that the score is 1 for; see docs/token_scan.md for how they were chosen."""

    single: float
    """Of a token alone."""
    sequence: float
    """Of two tokens or more: a search over so many finds more that does something in any tower."""
    source: str


def shipped_units() -> Units:
    """From the file that ships with this package."""
    text = (files("clipsec_amdet.token_scan") / "calibration.json").read_text("utf-8")
    return Units(**json.loads(text))


def score_of(pull: float, tokens: int, units: Units) -> float:
    """A pull in the unit of its length."""
    return pull / (units.single if tokens == 1 else units.sequence)


def strongest(candidates: Sequence[Candidate], units: Units) -> tuple[Candidate, float]:
    """The candidate with the highest score, and that score."""
    scores = [score_of(each.pull, len(each.ids), units) for each in candidates]
    place = max(range(len(scores)), key=scores.__getitem__)
    return candidates[place], scores[place]
