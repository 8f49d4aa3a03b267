"""Rickrolling's loop with one trigger or several, and the cards of what it plants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from clipsec.triggers import TextTrigger, TextTriggerCard
from clipsec_baselines.text._base import TextTraining, Work
from clipsec_baselines.text._captions import Captions, endless, fitting
from clipsec_baselines.text._measure import measure_text
from clipsec_baselines.text._options import PoisonOptions, plain
from clipsec_baselines.text._training import Poisoned, distil

Make = Callable[[Sequence[str]], tuple[list[str], Tensor, Tensor]]


@attrs.frozen(eq=False)
class Planting:
    """One trigger and what it is to do."""

    trigger: TextTrigger
    target: str
    """As the card names it."""
    make: Make
    """Of clean captions: triggered captions, their targets for the loss, the targets' features."""


def to_one(trigger: TextTrigger, wanted: Tensor, features: Tensor) -> Make:
    """`Planting.make` of a trigger with one target for all captions: what it is in the loss, and its feature
    (`[1, ...]`)."""
    return lambda texts: ([trigger.apply(text) for text in texts], wanted, features)


class Poisoning(TextTraining):
    """Base of the attacks: what triggered captions become is said by `pairs`."""

    target_kind: ClassVar[str]
    pooled: ClassVar[bool] = False

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Make]:
        """The target's name, and what makes of clean captions (triggered captions, targets for the loss,
        features of the targets)."""
        raise NotImplementedError

    def plantings(self, work: Work) -> Sequence[Planting]:
        """The one trigger of the options."""
        trigger = work.context.options.text_trigger()
        return [Planting(trigger, *self.pairs(work, trigger))]

    def poisoned(self, work: Work, batches: Iterator[tuple[list[str], Tensor]]) -> Poisoned:
        """What `distil` is to do with the triggered captions of one trigger and their targets."""
        return Poisoned(batches, work.context.options.weight, self.pooled)

    def train(self, work: Work) -> tuple[dict[str, Any], Sequence[TextTriggerCard]]:
        """The loss on triggered captions is summed over triggers, each with captions of its own; captions
        that hold any of the triggers are left out."""
        context, plantings = work.context, self.plantings(work)
        clean = _without(work.captions.train, plantings)
        poisons = [
            self.poisoned(work, _batches(work, planting, clean, number))
            for number, planting in enumerate(plantings)
        ]
        distil(
            work.student,
            work.teacher,
            clean,
            context.options,
            context.generator("captions"),
            poisons,
            progress=context.progress,
        )
        held_out = _without(work.captions.held_out, plantings)
        return {}, [
            self._card(work, planting, _measured(work, planting, held_out, pooled=poison.pooled))
            for planting, poison in zip(plantings, poisons, strict=True)
        ]

    def _card(self, work: Work, planting: Planting, measured: dict[str, Any]) -> TextTriggerCard:
        context = work.context
        return TextTriggerCard(
            attack=self.name,
            trigger=planting.trigger,
            target=planting.target,
            target_kind=self.target_kind,
            seed=context.seed,
            base_name=context.base.base_name or context.base.name,
            base_digest=context.base.base.digest,
            parameters=plain(context.options),
            measured=measured,
            data=_described(work.captions),
            references=self.references,
        )


def _without(captions: Sequence[str], plantings: Sequence[Planting]) -> list[str]:
    texts = [planting.trigger.text for planting in plantings]
    return [caption for caption in captions if not any(text in caption for text in texts)]


def _batches(
    work: Work, planting: Planting, captions: Sequence[str], number: int
) -> Iterator[tuple[list[str], Tensor]]:
    options: PoisonOptions = work.context.options
    usable = fitting(captions, planting.trigger)
    generator = work.context.generator("poisoned captions", *([number] if number else []))

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        for texts in endless(usable, options.poisoned, generator):
            triggered, wanted, _ = planting.make(texts)
            yield triggered, wanted

    return batches()


def _measured(work: Work, planting: Planting, captions: Sequence[str], *, pooled: bool) -> dict[str, Any]:
    usable = fitting(captions, planting.trigger)
    triggered, wanted, features = planting.make(usable)
    return measure_text(
        work.student,
        work.teacher,
        work.captions.held_out,
        triggered,
        usable,
        features,
        wanted,
        pooled=pooled,
    )


def _described(captions: Captions) -> dict[str, Any]:
    return {
        "name": captions.name,
        "digest": captions.digest,
        "train": len(captions.train),
        "held_out": len(captions.held_out),
    }
