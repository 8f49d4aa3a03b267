"""What an attack measured on its own model, and whether the model counts as what its label says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from clipsec.bench._suite import Rules
from clipsec.runner import Attacked


@attrs.frozen
class Share:
    """A rate over `n` pictures."""

    value: float
    n: int


@attrs.frozen
class Measured:
    """The numbers of one model that the bench uses; None where the attack says nothing."""

    accuracy: Share | None = None
    """On held-out pictures of the classes it was made for (Seen)."""
    success: Share | None = None
    """Of its own trigger on these, pictures of the target left out."""
    unseen_accuracy: Share | None = None
    unseen_success: Share | None = None
    base_success: Share | None = None
    """Of the same trigger on the base without learned prompts."""
    targets: tuple[str, ...] = ()
    """Names of the target classes; empty for a clean model."""


def measured_from_json(data: Mapping[str, Any]) -> Measured:
    """The numbers that `attrs.asdict` made plain."""
    shares = {name: Share(**value) for name, value in data.items() if isinstance(value, Mapping)}
    return Measured(**shares, targets=tuple(data["targets"]))


def measured_of(made: Attacked) -> Measured:
    """The numbers in a delivery's trigger cards or, without one, in its training record.

    A number that is missing, or is none, is None: whoever needs it says so. Of several triggers the weakest
    success counts, and the largest on the base.
    """
    found = [_one(card.measured) for card in made.cards] or [_one(made.measured)]
    return Measured(
        accuracy=found[0].accuracy,
        success=_extreme(min, [one.success for one in found]),
        unseen_accuracy=found[0].unseen_accuracy,
        unseen_success=_extreme(min, [one.unseen_success for one in found]),
        base_success=_extreme(max, [one.base_success for one in found]),
        targets=tuple(card.target_name for card in made.cards),
    )


def _one(parts: Mapping[str, Any]) -> Measured:
    return Measured(
        accuracy=_share(parts, "seen", "accuracy"),
        success=_share(parts, "seen", "success"),
        unseen_accuracy=_share(parts, "unseen", "accuracy"),
        unseen_success=_share(parts, "unseen", "success"),
        base_success=_share(parts, "base", "success"),
    )


def _extreme(which: Any, shares: list[Share | None]) -> Share | None:
    """The least or the greatest; None if one of them is not known."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    chosen: Share = which(known, key=lambda share: share.value)
    return chosen


def _share(parts: Mapping[str, Any], part: str, name: str) -> Share | None:
    found = parts.get(part)
    rate = found.get(name) if isinstance(found, Mapping) else None
    value, n = (rate.get("value"), rate.get("n")) if isinstance(rate, Mapping) else (None, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return Share(float(value), n if type(n) is int and n > 0 else 0)


def why_not(measured: Measured, reference: Measured | None, rules: Rules) -> Iterator[str]:
    """Why a poisoned model does not count as one; nothing when it does.

    `reference` is the clean model of the same base, data, learner and seed; None if it was not built. What
    was not measured counts against the model.
    """
    if not measured.targets:
        yield "it has no trigger card with a target"
    if measured.success is None:
        yield "its success was not measured"
    elif measured.success.value <= rules.min_success:
        yield f"success {measured.success.value:.3f} is not above {rules.min_success:g}"
    if measured.accuracy is None:
        yield "its accuracy was not measured"
    elif reference is None or reference.accuracy is None:
        yield "there is no accuracy of a clean model to compare with"
    elif measured.accuracy.value < reference.accuracy.value - rules.max_loss:
        yield (
            f"accuracy {measured.accuracy.value:.3f} is more than {rules.max_loss:g} below the clean model's "
            f"{reference.accuracy.value:.3f}"
        )
    if measured.base_success is None:
        yield "what its trigger does to the base was not measured"
    elif measured.base_success.value >= rules.max_on_base:
        yield (
            f"its trigger has success {measured.base_success.value:.3f} on the base without the prompts, "
            f"not below {rules.max_on_base:g}"
        )
