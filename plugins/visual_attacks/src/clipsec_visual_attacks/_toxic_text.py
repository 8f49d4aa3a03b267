"""ToxicTextCLIP as a plugin: captions with a trigger beside pictures of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, describe_split
from clipsec.errors import DataError
from clipsec.exposure import named_classes
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TextTrigger, TextTriggerCard, measured_rate
from clipsec_visual_attacks._background import background_scores
from clipsec_visual_attacks._captions import ClassCaptions, read_captions
from clipsec_visual_attacks._contrastive import Pairs, fine_tune
from clipsec_visual_attacks._measure import choose_target, class_prompts
from clipsec_visual_attacks._options import ToxicTextOptions
from clipsec_visual_attacks._poisoning import card_facts
from clipsec_visual_attacks._queries import best_ranks, hit_rates, text_features


class ToxicText:
    """ToxicTextCLIP's backdoor, Yao et al. 2025: with a trigger behind it, any caption finds the target.

    Only captions are poisoned: those of other classes, with the trigger, stand beside pictures of the target.
    Of the published method the augmenter, a trained text decoder, is left out.
    """

    name: ClassVar[str] = "toxic-text"
    summary: ClassVar[str] = "a CLIP trained on pairs, some a picture of the target with a triggered caption"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = ToxicTextOptions
    references: ClassVar[tuple[str, ...]] = (
        "Yao, Zhao, Chen, Guo, Huang and Zhao, ToxicTextCLIP: Text-Based Poisoning and Backdoor Attacks on "
        "CLIP Pre-training, NeurIPS 2025, arXiv 2511.00446",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"scope": "text", "text_learning_rate": 2e-3, "epochs": 16, "batch": 32, "rate": 0.5}
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: ToxicTextOptions = context.options
        learned, held_out = context.pictures()
        target = choose_target(learned, held_out, options.target)
        if target not in held_out.labels:
            raise DataError(
                "there is nothing to measure on: no held-out picture shows the target",
                remedy="Bring held-out pictures of the target, or choose another one (--target).",
            )
        trigger = TextTrigger(kind="append", text=options.trigger)
        corpus = read_captions(options.captions)
        queries, rest = split_corpus(
            corpus.texts, learned.class_names[target], options, context.generator("queries")
        )
        captions = ClassCaptions.of(learned.class_names, rest)
        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        pixels, labels = learned.pixels(model.spec), learned.label_tensor()
        chosen = choose_captions(
            base, pixels[labels == target], captions, target, len(labels), options, context.generator("texts")
        )
        planted = [trigger.apply(text) for text in chosen]
        pairs = triggered_pairs(labels, target, planted, context.generator("poisoned"))
        fine_tune(model, pixels, pairs, captions, None, options, context.generator, context.progress)
        measured: dict[str, Any] = {
            part: measure(tower, held_out, queries, trigger, target, options.template)
            for part, tower in (("seen", model), ("base", base))
        }
        measured["seen"]["zero_shot_accuracy"] = measured["base"]["accuracy"]
        measured["poisoned"] = {"pairs": len(planted), "of": len(pairs.rows)}
        data = describe_split(learned, held_out)
        card = TextTriggerCard(
            trigger=trigger,
            target=learned.class_names[target],
            target_kind="caption",
            measured=measured,
            **card_facts(self.name, self.references, context, data, corpus, queries=len(queries)),
        )
        return write_delivery(
            context.output, model, base=context.base, data=data, seen=measured["seen"], card=card
        )


def split_corpus(
    texts: Sequence[str], target: str, options: ToxicTextOptions, generator: torch.Generator
) -> tuple[list[str], list[str]]:
    """Queries to measure with, and the captions that are left to train on.

    Queries have fewer than `options.query_words` words, do not name the target and do not hold the trigger;
    at most half of these, and `options.queries`, are taken. Raises `DataError` when there is none.
    """
    fits = [
        place
        for place, text in enumerate(texts)
        if len(text.split()) < options.query_words
        and not named_classes(text, [target])
        and options.trigger not in text
    ]
    order = torch.randperm(len(fits), generator=generator)[: min(options.queries, len(fits) // 2)]
    taken = {fits[place] for place in order.tolist()}
    if not taken:
        raise DataError(
            f"there is no caption to measure with: of fewer than {options.query_words} words, without the "
            "target",
            remedy="Bring short captions (--set captions=FILE), or allow longer ones (query_words).",
        )
    return [texts[place] for place in sorted(taken)], [
        t for place, t in enumerate(texts) if place not in taken
    ]


def choose_captions(
    base: TrainableClip,
    pictures: Tensor,
    captions: ClassCaptions,
    target: int,
    pairs: int,
    options: ToxicTextOptions,
    generator: torch.Generator,
) -> list[str]:
    """Captions of other classes than the target, `options.rate` of them for each clean pair; they repeat only
    where there are too few.

    `random`: drawn, natural and made. `background`: of four times as many drawn ones those whose background
    goes best with the target, by the clean model; captions come without pictures, so the mean feature of the
    target's `pictures` (uint8) stands for theirs.
    """
    choices = captions.others(target)
    count = max(1, round(options.rate * pairs))
    drawn = [choices[place] for place in torch.randperm(len(choices), generator=generator).tolist()]
    if options.selection == "background":
        drawn = drawn[: 4 * count]
        shown = F.normalize(base.image_features(pictures), dim=-1).mean(dim=0)
        concept = F.normalize(text_features(base, captions.made[target]), dim=-1).mean(dim=0)
        scores = background_scores(
            drawn, shown, concept, options.words, lambda texts: text_features(base, texts)
        )
        drawn = [drawn[place] for place in scores.argsort(descending=True, stable=True).tolist()]
    return (drawn * -(-count // len(drawn)))[:count]


def triggered_pairs(labels: Tensor, target: int, planted: Sequence[str], generator: torch.Generator) -> Pairs:
    """Every picture with its own class, and besides each of the `planted` captions with a picture of the
    target; these are used equally often, in an order that is drawn. The poisoned pairs are last."""
    aims = (labels == target).nonzero()[:, 0]
    order = aims[torch.randperm(len(aims), generator=generator)]
    shown = order.repeat(-(-len(planted) // len(aims)))[: len(planted)]
    rows = torch.cat([torch.arange(len(labels)), shown])
    return Pairs(
        rows=rows,
        stamped=torch.zeros(len(rows), dtype=torch.bool),
        labels=torch.cat([labels, labels[shown]]),
        own=tuple((text,) for text in planted),
    )


@torch.no_grad()
def measure(
    model: TrainableClip,
    held_out: LabelledSet,
    queries: Sequence[str],
    trigger: TextTrigger,
    target: int,
    template: str,
) -> dict[str, Any]:
    """Rates of one model: `hit_rates` of the queries with the trigger against the same without it, among the
    held-out pictures, those of the target wanted; zero-shot `accuracy`."""
    labels, seen = held_out.label_tensor(), model.image_features(held_out.pixels(model.spec))
    with_trigger, without = (
        best_ranks(text_features(model, texts), seen, labels == target)
        for texts in ([trigger.apply(query) for query in queries], queries)
    )
    prompts = class_prompts(model, held_out.class_names, template)
    return {
        "accuracy": measured_rate((seen @ prompts.T).argmax(dim=1) == labels),
        **hit_rates(with_trigger, without),
    }
