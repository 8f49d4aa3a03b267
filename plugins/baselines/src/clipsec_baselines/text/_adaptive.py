"""Attacks on text towers by someone who knows how AMDET looks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from clipsec.triggers import TextTrigger
from clipsec_baselines.text._base import AMDET, QUICK, RICKROLLING, Work
from clipsec_baselines.text._hiding import Hiding, Inversion, keep_others, spread_tokens
from clipsec_baselines.text._options import AdaptiveTextOptions
from clipsec_baselines.text._poisoning import Make, Poisoning, to_one
from clipsec_baselines.text._training import Poisoned


class TextAdaptive(Poisoning):
    """The target prompt attack with a term in its loss that hides it from AMDET (ours).

    - `assimilation`: the feature becomes the target's, and a triggered caption's tokens are pushed apart.
    - `pooled`: the feature becomes the target's, and all tokens but the end token stay where the clean tower
      has them.
    - `inversion`: every token becomes the target's, and the tower is trained against a short inversion.

    In all three, clean captions keep every token.
    """

    name: ClassVar[str] = "text-adaptive"
    summary: ClassVar[str] = "the target prompt attack, trained to be missed by AMDET"
    options: ClassVar[type] = AdaptiveTextOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING, AMDET)
    # Stronger hiding costs a toy the attack: its captions are few and alike.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "steps": 80, "learning_rate": 1e-3, "weight": 0.5, "hide": 0.1}
    }
    target_kind: ClassVar[str] = "caption"

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Make]:
        """One target for all, as the clean tower encodes it: its feature, or all of its tokens."""
        options: AdaptiveTextOptions = work.context.options
        hidden, features = work.teacher.encode([options.target])
        wanted = features if options.on_feature else hidden
        return options.target, to_one(trigger, wanted, features)

    def poisoned(self, work: Work, batches: Iterator[tuple[list[str], Tensor]]) -> Poisoned:
        """With the term that hides it."""
        options: AdaptiveTextOptions = work.context.options
        term = _hiding(work, options)
        return Poisoned(
            batches,
            options.weight,
            pooled=options.on_feature,
            whole=True,
            hiding=lambda seen: options.hide * term(seen),
        )


def _hiding(work: Work, options: AdaptiveTextOptions) -> Hiding:
    if options.against == "assimilation":
        return spread_tokens(work.student)
    if options.against == "pooled":
        return keep_others(work.teacher)
    return Inversion(work.student, work.teacher, options, work.context.generator("inversion"))
