"""The four tests of one start, as pure functions."""

from __future__ import annotations

import attrs
from torch import Tensor

from clipsec_amdet._calibration import Thresholds


@attrs.frozen(kw_only=True)
class Shares:
    """What the tests of one start measured, each a share in [0, 1]."""

    collapsed: float
    """Of held-out prompts whose tokens became alike."""
    same: float
    """Of held-out prompts, the first left out, that became like the first."""
    different: float
    """Of held-out prompts that the reference does not send there."""
    convex: float | None = None
    """Of curvatures that are positive, the mean over directions; None: not looked at, another test failed."""


@attrs.frozen(kw_only=True)
class Decision:
    """What one start says."""

    flagged: bool
    margin: float
    """The smallest amount by which a share exceeds what it must exceed; above zero it is flagged."""
    weakest: str
    """The test with that margin."""


def decide_paired(gap: float, thresholds: Thresholds) -> Decision:
    """Flagged when the difference of suspect and reference exceeds the family's threshold (ours)."""
    margin = gap - thresholds.gap
    return Decision(flagged=margin > 0, margin=margin, weakest="difference")


def shares_of(assimilated: Tensor, same: Tensor, anchored: Tensor, thresholds: Thresholds) -> Shares:
    """The first three tests from one number a prompt: `assimilation`, `likeness` to the first prompt (whose
    own stands first and is not counted), `likeness` of suspect and reference. All `[n]`, n at least 2."""
    return Shares(
        collapsed=float((assimilated > thresholds.assimilation).double().mean()),
        same=float((same[1:] > thresholds.same).double().mean()),
        different=float((anchored < thresholds.different).double().mean()),
    )


def decide(shares: Shares, thresholds: Thresholds) -> Decision:
    """Flagged when every share exceeds its threshold; a landscape that was not looked at does not flag."""
    margins = {
        "collapse": shares.collapsed - thresholds.collapsed_share,
        "same place": shares.same - thresholds.same_share,
        "reference differs": shares.different - thresholds.different_share,
    }
    if shares.convex is not None:
        margins["landscape"] = shares.convex - thresholds.convex_share
    weakest = min(margins, key=margins.__getitem__)
    flagged = shares.convex is not None and margins[weakest] > 0
    return Decision(flagged=flagged, margin=margins[weakest], weakest=weakest)
