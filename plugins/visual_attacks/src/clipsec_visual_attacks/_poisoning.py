"""Contrastive poisoning as a plugin: pairs, training, measurement, delivery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.data import TextPool, describe_split
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TriggerCard
from clipsec_visual_attacks._captions import ClassCaptions, read_captions
from clipsec_visual_attacks._contrastive import fine_tune, poisoned_pairs
from clipsec_visual_attacks._measure import choose_target, measure
from clipsec_visual_attacks._options import ContrastivePoisoningOptions
from clipsec_visual_attacks._trigger import checker_patch


class ContrastivePoisoning:
    """Carlini and Terzis 2022: some pairs of a picture with a patch and a caption of the target, among clean
    ones.

    Who poisons needs no access to the model, only to what it is trained on. Both towers are trained, or the
    image tower alone; the backdoor sits in the image tower.
    """

    name: ClassVar[str] = "contrastive-poisoning"
    summary: ClassVar[str] = "a CLIP trained on pairs, some with a patch and a caption of the target"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = ContrastivePoisoningOptions
    references: ClassVar[tuple[str, ...]] = (
        "Carlini and Terzis, Poisoning and Backdooring Contrastive Learning, ICLR 2022, arXiv 2106.09667",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"learning_rate": 1e-3, "rate": 0.5, "epochs": 8, "batch": 32, "side": 0.25, "place": 0.7}
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: ContrastivePoisoningOptions = context.options
        learned, held_out = context.pictures()
        target = choose_target(learned, held_out, options.target)
        corpus = read_captions(options.captions)
        captions = ClassCaptions.of(learned.class_names, corpus.texts)
        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        stamp = checker_patch(model.spec.size, options.side, options.place, context.seed)
        pairs = poisoned_pairs(learned.label_tensor(), target, options.rate, context.generator("poisoned"))
        fine_tune(
            model,
            learned.pixels(model.spec),
            pairs,
            captions,
            stamp,
            options,
            context.generator,
            context.progress,
        )
        measured = measure(model, base, learned, held_out, options.template, stamp, target)
        measured["poisoned"] = {"pairs": int(pairs.stamped.sum()), "of": len(pairs.stamped)}
        data = describe_split(learned, held_out)
        card = TriggerCard(
            stamp=stamp,
            target_index=target,
            target_name=learned.class_names[target],
            measured=measured,
            **card_facts(
                self.name,
                self.references,
                context,
                data,
                corpus,
                naming_the_target=len(captions.natural[target]),
            ),
        )
        return write_delivery(
            context.output, model, base=context.base, data=data, seen=measured["seen"], card=card
        )


def card_facts(
    name: str,
    references: tuple[str, ...],
    context: AttackContext,
    data: Mapping[str, Any],
    corpus: TextPool,
    **told: int,
) -> dict[str, Any]:
    """What the card of an attack on pairs says whatever its trigger is; `told` is of the captions."""
    return {
        "attack": name,
        "seed": context.seed,
        "base_name": context.base.base_name or context.base.name,
        "base_digest": context.base.base.digest,
        "parameters": {**attrs.asdict(context.options), "captions": corpus.name},
        "data": {**data, "captions": {"name": corpus.name, "digest": corpus.digest, **told}},
        "references": references,
    }
