"""The card of an interface: six fields of data, and what follows from them and a trigger.

Source: DIFE (Xiang, Yang and Jiang, arXiv 2606.17815), section 3.2 and appendix B, with the channel split as
`docs/dife.md` says.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs

from clipsec.protocols._kinds import Need

if TYPE_CHECKING:
    from clipsec.protocols._trigger import CaptionTrigger, Trigger


class Readout(enum.StrEnum):
    """What of the model an interface reads."""

    IMAGE = "image features"
    TEXT = "text features"
    SCORE = "image-text score"
    DELIVERED = "learned prompts"
    """The scores that a prompt-tuned delivery gives through its own prompts."""


class Channel(enum.StrEnum):
    """Where an attacker puts the trigger, which is what power an attacker needs."""

    QUERY_IMAGE = "query image"
    CORPUS_IMAGE = "corpus image"
    """A triggered picture planted in a gallery, a candidate set or a training set."""
    QUERY_TEXT = "query text"
    CORPUS_TEXT = "corpus text"
    MECHANISM = "mechanism"
    """Learned prompts and a trigger that belong together."""


READS = {
    Readout.IMAGE: frozenset({Need.IMAGE_TOWER}),
    Readout.TEXT: frozenset({Need.TEXT_TOWER}),
    Readout.SCORE: frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER}),
    Readout.DELIVERED: frozenset({Need.PROMPT_HEAD, Need.IMAGE_TOWER}),
}
"""What a model must have for each readout."""


@attrs.frozen(kw_only=True)
class InterfaceCard:
    """What one measurement of an interface is about. All fields are data; validity follows from them."""

    readout: Readout
    channels: tuple[Channel, ...]
    """The channels through which a trigger can enter; a trigger uses the first that it has."""
    event: str
    """The target event of one case, e.g. "the triggered picture is classified as the target"."""
    population: str
    """What is averaged over, e.g. "held-out pictures of other classes"."""
    reference: str
    """The reference condition of the same case, e.g. "the same picture without the trigger"."""
    metric: str
    """The name of the rate of events: TS, QHR, H@1, H@10, Sel@1, ..."""


def channel_of(card: InterfaceCard, trigger: Trigger | CaptionTrigger) -> Channel | None:
    """The channel of the interface that the trigger enters through; None when there is none."""
    return next((channel for channel in card.channels if channel in trigger.channels), None)


def not_eligible(
    card: InterfaceCard,
    trigger: Trigger | CaptionTrigger,
    provides: Collection[Need],
    class_names: Sequence[str],
) -> str | None:
    """Why a cell has no meaning (N.E.), one clause for people; None when it has.

    The rules in the order of the paper: the interface reads something that the model has, the trigger can
    enter through its channel, and the target event is defined. N.E. is neither exposure nor safety.
    """
    missing = sorted(READS[card.readout] - set(provides))
    if missing:
        return f"it reads {card.readout}, and the model has no {', no '.join(missing)}"
    if channel_of(card, trigger) is None:
        return f"the trigger enters by {trigger.enters}, the interface takes it by {_or(card.channels)}"
    if trigger.target_name not in class_names:
        return f"the target {trigger.target_name!r} is none of the model's classes, so no event is defined"
    if len(class_names) < 2:
        return "there is one class only, so no event is defined"
    return None


def _or(channels: Sequence[Channel]) -> str:
    return " or ".join(channels) or "no channel"
