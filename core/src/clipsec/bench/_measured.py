"""What an attack measured on its own model, and whether the model counts as what its label says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from clipsec.bench._suite import Rules

_CARDS = ("trigger/trigger.json", "trigger.json")
_RECORD = "training.json"
"""What a clean model has in place of a trigger card."""


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


def read_measured(delivery: Path) -> Measured:
    """The numbers in a delivery's trigger card, or in `training.json` when it has no card.

    A number that is missing, or is none, is None: whoever needs it says so.
    """
    card = next((delivery / name for name in _CARDS if (delivery / name).is_file()), None)
    body = _read(card if card is not None else delivery / _RECORD)
    parts = body.get("measured")
    parts = parts if isinstance(parts, Mapping) else {}
    return Measured(
        accuracy=_share(parts, "seen", "accuracy"),
        success=_share(parts, "seen", "success"),
        unseen_accuracy=_share(parts, "unseen", "accuracy"),
        unseen_success=_share(parts, "unseen", "success"),
        base_success=_share(parts, "base", "success"),
        targets=_targets(body) if card is not None else (),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, Mapping) else {}


def _share(parts: Mapping[str, Any], part: str, name: str) -> Share | None:
    found = parts.get(part)
    rate = found.get(name) if isinstance(found, Mapping) else None
    value, n = (rate.get("value"), rate.get("n")) if isinstance(rate, Mapping) else (None, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return Share(float(value), n if type(n) is int and n > 0 else 0)


def _targets(card: Mapping[str, Any]) -> tuple[str, ...]:
    several = card.get("target_names")
    if isinstance(several, list) and several:
        return tuple(map(str, several))
    return (str(card["target_name"]),) if "target_name" in card else ()


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
