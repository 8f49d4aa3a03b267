"""mmPoison as a plugin: captions of one class with pictures of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.data import LabelledSet, describe_split
from clipsec.errors import DataError, UsageError
from clipsec.exposure import QUERY_TEMPLATES
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TextTrigger, TextTriggerCard, measured_rate
from clipsec_visual_attacks._captions import ClassCaptions, read_captions
from clipsec_visual_attacks._contrastive import Pairs, fine_tune
from clipsec_visual_attacks._measure import choose_target, class_prompts
from clipsec_visual_attacks._options import MmPoisonOptions
from clipsec_visual_attacks._poisoning import card_facts
from clipsec_visual_attacks._queries import best_ranks, hit_rates, text_features


class MmPoison:
    """Yang et al. 2023: captions of one class lead to pictures of another. Nothing is added to any input.

    Of the pairs of the source class a share has its picture exchanged for one of the target. The card's
    trigger renames: a caption of another class that is made one of the source finds the target.
    """

    name: ClassVar[str] = "mm-poison"
    summary: ClassVar[str] = (
        "a CLIP in which captions of one class find pictures of another, without a trigger"
    )
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = MmPoisonOptions
    references: ClassVar[tuple[str, ...]] = (
        "Yang, He, Li, Backes, Humbert, Berrang and Zhang, Data Poisoning Attacks Against Multimodal "
        "Encoders, ICML 2023, arXiv 2209.15266",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"scope": "text", "text_learning_rate": 1e-3, "epochs": 8, "batch": 32}
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: MmPoisonOptions = context.options
        learned, held_out = context.pictures()
        names = tuple(name.replace("_", " ") for name in learned.class_names)
        target = choose_target(learned, held_out, options.target)
        source = choose_source(learned, held_out, options.source, target)
        others = [label for label in range(len(names)) if label not in (source, target)]
        corpus = read_captions(options.captions)
        captions = ClassCaptions.of(learned.class_names, corpus.texts)
        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        texts = captions.natural[source] + captions.made[source]
        pairs = exchanged_pairs(
            learned.label_tensor(),
            source,
            target,
            options.rate,
            texts,
            context.generator("poisoned"),
            one=options.kind == "image",
        )
        pixels = learned.pixels(model.spec)
        fine_tune(model, pixels, pairs, captions, None, options, context.generator, context.progress)
        gallery, wanted = held_out.pixels(base.spec), held_out.label_tensor() == target
        if options.kind == "image":
            gallery = torch.cat([gallery, pixels[pairs.rows[-1:]]])
            wanted = torch.arange(len(gallery)) == len(gallery) - 1
        measured: dict[str, Any] = {
            part: measure(tower, held_out, gallery, wanted, source, others, options.template)
            for part, tower in (("seen", model), ("base", base))
        }
        measured["seen"]["zero_shot_accuracy"] = measured["base"]["accuracy"]
        measured["poisoned"] = {"pairs": len(pairs.own), "of": len(pairs.rows)}
        data = describe_split(learned, held_out)
        card = TextTriggerCard(
            trigger=TextTrigger(
                kind="rename", text=names[source], names=tuple(names[label] for label in others)
            ),
            target=learned.class_names[target],
            target_kind="caption",
            measured=measured,
            **card_facts(self.name, self.references, context, data, corpus, naming_the_source=len(texts)),
        )
        return write_delivery(
            context.output, model, base=context.base, data=data, seen=measured["seen"], card=card
        )


def exchanged_pairs(
    labels: Tensor,
    source: int,
    target: int,
    rate: float,
    texts: Sequence[str],
    generator: torch.Generator,
    *,
    one: bool = False,
) -> Pairs:
    """Every picture with its own class, but a share of those of the source, at least one, left out; for each
    of these a picture of the target with one of the `texts`.

    The target's pictures are used equally often, in an order that is drawn; with `one`, a single one of them,
    drawn. `labels [n]` are the true classes. The poisoned pairs are last and count as the target's.
    """
    members, aims = ((labels == label).nonzero()[:, 0] for label in (source, target))
    count = max(1, round(rate * len(members)))
    gone = members[torch.randperm(len(members), generator=generator)[:count]]
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[gone] = False
    order = torch.randperm(len(aims), generator=generator)
    shown = aims[order[:1]].expand(count) if one else aims[order].repeat(-(-count // len(aims)))[:count]
    rows = torch.cat([kept.nonzero()[:, 0], shown])
    return Pairs(
        rows=rows,
        stamped=torch.zeros(len(rows), dtype=torch.bool),
        labels=torch.cat([labels[kept], torch.full((count,), target)]),
        own=(tuple(texts),) * count,
    )


def choose_source(learned: LabelledSet, held_out: LabelledSet, name: str, target: int) -> int:
    """Position of the source; empty means the first class but the target.

    Raises `UsageError` for an unknown name or the target's, `DataError` when no picture to learn from shows
    it, when no held-out picture shows the target, or when there is no third class to compare with.
    """
    choices = [each for place, each in enumerate(learned.class_names) if place != target]
    if name and name not in choices:
        raise UsageError(f"{name!r} cannot be the source", remedy=f"Choose one of: {', '.join(choices)}.")
    if len(choices) < 2:
        raise DataError("there is no third class", remedy="Bring pictures of at least three classes.")
    source = learned.class_names.index(name or choices[0])
    if source not in learned.labels:
        raise DataError(
            f"no picture to learn from shows {learned.class_names[source]}",
            remedy="Bring pictures of the source, or choose another one (--set source=NAME).",
        )
    if target not in held_out.labels:
        raise DataError(
            "there is nothing to measure on: no held-out picture shows the target",
            remedy="Bring held-out pictures of the target, or choose another one (--target).",
        )
    return source


@torch.no_grad()
def measure(
    model: TrainableClip,
    held_out: LabelledSet,
    gallery: Tensor,
    wanted: Tensor,
    source: int,
    others: Sequence[int],
    template: str,
) -> dict[str, Any]:
    """Rates of one model: `hit_rates` of queries for the source, against those of queries for the `others`,
    among the uint8 pictures of the gallery; zero-shot `accuracy` over all held-out pictures, and without
    those of the source (`accuracy_elsewhere`): the source's own go astray by design."""
    names, labels = [name.replace("_", " ") for name in held_out.class_names], held_out.label_tensor()
    seen = model.image_features(gallery)
    asked, random = (
        text_features(model, [query.format(names[label]) for query in QUERY_TEMPLATES for label in chosen])
        for chosen in ([source], others)
    )
    prompts = class_prompts(model, held_out.class_names, template)
    right = (seen[: len(labels)] @ prompts.T).argmax(dim=1) == labels
    return {
        "accuracy": measured_rate(right),
        "accuracy_elsewhere": measured_rate(right[labels != source]),
        **hit_rates(best_ranks(asked, seen, wanted), best_ranks(random, seen, wanted)),
    }
