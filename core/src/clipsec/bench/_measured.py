"""What an attack measured on its own model, and whether the model counts as what its label says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from clipsec.bench._suite import Rules
from clipsec.results import Rate
from clipsec.runner import Attacked
from clipsec.stats import wilson
from clipsec.triggers import TriggerCard


@attrs.frozen
class Measured:
    """The numbers of one model that the bench uses; None where the attack says nothing."""

    accuracy: Rate | None = None
    """On held-out pictures of the classes it was made for (Seen)."""
    success: Rate | None = None
    """Of its own trigger on these, pictures of the target left out."""
    unseen_accuracy: Rate | None = None
    unseen_success: Rate | None = None
    base_success: Rate | None = None
    """Of the same trigger on the base without learned prompts."""
    targets: tuple[str, ...] = ()
    """Names of the target classes; empty for a clean model."""


def measured_from_json(data: Mapping[str, Any]) -> Measured:
    """The numbers that `attrs.asdict` with `plain_rate` made plain."""
    names = {field.name for field in attrs.fields(Measured)} - {"targets"}
    return Measured(
        **{name: _rate_of(data[name]) for name in names if name in data}, targets=tuple(data["targets"])
    )


def plain_rate(_: Any, __: Any, value: Any) -> Any:
    """A `value_serializer` for `attrs.asdict`: rates as attacks state them, value and number of pictures."""
    if isinstance(value, dict):
        return {name: plain_rate(_, __, each) for name, each in value.items()}
    return {"value": value.value, "n": value.n} if isinstance(value, Rate) else value


def measured_of(made: Attacked) -> Measured:
    """The numbers in a delivery's trigger cards or, without one, in its training record.

    A number that is missing, that is none, or of which nobody says how many pictures it is of, is None:
    whoever needs it says so. Of several triggers the weakest success counts, and the largest on the base.
    """
    cards = made.cards or made.text_cards
    found = [_one(card.measured) for card in cards] or [_one(made.measured)]
    return Measured(
        accuracy=found[0].accuracy,
        success=_extreme(min, [one.success for one in found]),
        unseen_accuracy=found[0].unseen_accuracy,
        unseen_success=_extreme(min, [one.unseen_success for one in found]),
        base_success=_extreme(max, [one.base_success for one in found]),
        targets=tuple(card.target_name for card in made.cards),
    )


def success_by_target(cards: Sequence[TriggerCard]) -> dict[str, Rate | None]:
    """What each trigger of a delivery does, by the target it aims at; of two with one target, the weaker."""
    found: dict[str, list[Rate | None]] = {}
    for card in cards:
        found.setdefault(card.target_name, []).append(_one(card.measured).success)
    return {target: _extreme(min, rates) for target, rates in found.items()}


def _one(parts: Mapping[str, Any]) -> Measured:
    return Measured(
        accuracy=_rate(parts, "seen", "accuracy"),
        success=_rate(parts, "seen", "success"),
        unseen_accuracy=_rate(parts, "unseen", "accuracy"),
        unseen_success=_rate(parts, "unseen", "success"),
        base_success=_rate(parts, "base", "success"),
    )


def _extreme(which: Any, rates: list[Rate | None]) -> Rate | None:
    """The least or the greatest; None if one of them is not known."""
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    chosen: Rate = which(known, key=lambda rate: rate.value)
    return chosen


def _rate(parts: Mapping[str, Any], part: str, name: str) -> Rate | None:
    found = parts.get(part)
    return _rate_of(found.get(name)) if isinstance(found, Mapping) else None


def _rate_of(stated: Any) -> Rate | None:
    """A rate as a card states it: `value` and `n`."""
    value, n = (stated.get("value"), stated.get("n")) if isinstance(stated, Mapping) else (None, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    if type(n) is not int or n < 1:
        return None
    return Rate(round(value * n), n, wilson(round(value * n), n))


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
