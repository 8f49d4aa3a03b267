"""The optimised patch as a plugin: patch, pairs, training, measurement, delivery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.data import describe_split
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TriggerCard
from clipsec_visual_attacks._captions import ClassCaptions, read_captions
from clipsec_visual_attacks._contrastive import fine_tune, poisoned_pairs
from clipsec_visual_attacks._measure import choose_target, measure
from clipsec_visual_attacks._options import LiangBadClipOptions
from clipsec_visual_attacks._patch import optimise_patch
from clipsec_visual_attacks._poisoning import card_facts


class LiangBadClip:
    """Liang et al. 2024 (BadCLIP): contrastive poisoning with a patch that was optimised against the clean
    model.

    Since triggered pictures lie near the target before anything is trained, poisoned pairs ask for little,
    and little of it is lost when the model is tuned on. `badclip` is another attack of the same name.
    """

    name: ClassVar[str] = "liang-badclip"
    summary: ClassVar[str] = (
        "a CLIP trained on pairs, some with an optimised patch and a caption of the target"
    )
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = LiangBadClipOptions
    references: ClassVar[tuple[str, ...]] = (
        "Liang, Zhu, Liu, Wu, Cao and Chang, BadCLIP: Dual-Embedding Guided Backdoor Attack on Multimodal "
        "Contrastive Learning, CVPR 2024, arXiv 2311.12075",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"learning_rate": 1e-3, "rate": 0.5, "epochs": 8, "batch": 32, "side": 0.25}
    }

    def poison(self, context: AttackContext) -> Path:
        """Optimise, train, measure and write both towers as the base's library does; returns
        `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: LiangBadClipOptions = context.options
        learned, held_out = context.pictures()
        target = choose_target(learned, held_out, options.target)
        corpus = read_captions(options.captions)
        captions = ClassCaptions.of(learned.class_names, corpus.texts)
        texts = captions.of_class(target, options.texts, context.generator("texts"))
        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        pixels, labels = learned.pixels(model.spec), learned.label_tensor()
        stamp, history = optimise_patch(
            base, pixels, labels, target, texts, options, context.generator, context.progress
        )
        pairs = poisoned_pairs(labels, target, options.rate, context.generator("poisoned"))
        count = int(pairs.stamped.sum())
        pairs = attrs.evolve(pairs, own=(texts,) * count)
        fine_tune(model, pixels, pairs, captions, stamp, options, context.generator, context.progress)
        measured = measure(model, base, learned, held_out, options.template, stamp, target)
        measured["poisoned"] = {"pairs": count, "of": len(pairs.rows)}
        measured["patch"] = {
            when: {"captions": float(found.captions), "triplet": float(found.triplet)}
            for when, found in (("first", history[0]), ("last", history[-1]))
        }
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
