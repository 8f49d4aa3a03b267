"""Uses of the text tower alone: classification by the nearest prompt, search among texts.

The paper names them in sections 2.1 and 3.1 and gives neither a card nor a number; both are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from attrs import validators

from clipsec.exposure import encode_texts
from clipsec.protocols import Channel, Context, InterfaceCard, Need, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Problem
from clipsec_dife._captions import Caption, caption_pool, class_prompts, queries
from clipsec_dife._cases import draw, sources, target_of
from clipsec_dife._facts import AS_CLEAN, Facts, Options, too_few
from clipsec_dife._frozen import first_rank

CAPTIONS = "captions of source classes, 20 templates a class"


def source_queries(context: Context, target: int, most: int) -> tuple[list[Caption], list[int]]:
    """Captions of the trigger's source classes, and which of all of them were drawn."""
    made = queries(context.suspect.class_names, sources(context, target))
    rows = draw(context, range(len(made)), most, "queries")
    return [made[row] for row in rows], rows


class NearestPrompt(Facts):
    """A text is classified by the class prompt nearest to it, in the text tower's space."""

    summary: ClassVar[str] = "a triggered caption is nearest to the target's prompt"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASS_NAMES})
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.TEXT,
        channels=(Channel.QUERY_TEXT,),
        event="the nearest class prompt is the target's",
        population=CAPTIONS,
        reference=AS_CLEAN,
        metric="TS",
    )

    def measure(self, context: Context) -> Problem:
        target, names = target_of(context), context.suspect.class_names
        prompts = yield from encode_texts(context, class_prompts(names))
        cases, rows = source_queries(context, target, context.options.cases)
        texts = context.mark([caption.text for caption in cases])
        answers = ((yield from encode_texts(context, texts)) @ prompts.T).argmax(dim=1)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = queries(names, range(len(names)))
            clean = yield from encode_texts(context, [caption.text for caption in everything])
            truth = torch.tensor([caption.label for caption in everything])
            utility = ((clean @ prompts.T).argmax(dim=1) == truth).int().tolist()
        return Measurement(
            events=tuple((answers == target).int().tolist()), utility=tuple(utility), index={"queries": rows}
        )


@attrs.frozen(kw_only=True)
class TextPoolOptions(Options):
    """Options of a search among texts."""

    pool: int = attrs.field(default=1000, validator=validators.ge(2))
    """Most captions of the pool; one in twenty names the target, if there are as many."""


def text_pool(context: Context, target: int) -> tuple[list[Caption], list[int], str]:
    """The captions to search among: 5% of the target where there are enough, the rest of others."""
    captions, note = caption_pool(context, context.suspect.class_names)
    most = context.options.pool
    wanted = [row for row, caption in enumerate(captions) if caption.label == target]
    others = [row for row, caption in enumerate(captions) if caption.label != target]
    others = draw(context, others, most - min(len(wanted), max(1, most // 20)), "other captions")
    wanted = draw(context, wanted, max(1, most // 20), "target captions")
    if not wanted or not others:
        raise too_few("the captions name the target only, or never")
    rows = sorted([*wanted, *others])
    return [captions[row] for row in rows], rows, note


class TextToText(Facts):
    """Search among captions by a caption."""

    summary: ClassVar[str] = "a triggered caption finds a caption of the target"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASS_NAMES})
    options: ClassVar[type] = TextPoolOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.TEXT,
        channels=(Channel.QUERY_TEXT,),
        event="the first hit names the target",
        population=CAPTIONS + "; one pool of captions, one in twenty of the target",
        reference=AS_CLEAN,
        metric="H@1",
    )

    def measure(self, context: Context) -> Problem:
        target, names = target_of(context), context.suspect.class_names
        pool, pool_rows, note = text_pool(context, target)
        found = yield from encode_texts(context, [caption.text for caption in pool])
        labels = torch.tensor([caption.label for caption in pool])
        cases, rows = source_queries(context, target, context.options.cases)
        texts = context.mark([caption.text for caption in cases])
        scores = (yield from encode_texts(context, texts)) @ found.T
        ranks = first_rank(scores, labels == target)
        utility: Sequence[int] = ()
        if not context.triggered:
            known = sorted({caption.label for caption in pool if caption.label >= 0})
            everything = queries(names, known)
            clean = yield from encode_texts(context, [caption.text for caption in everything])
            truth = torch.tensor([caption.label for caption in everything])
            utility = (labels[(clean @ found.T).argmax(dim=1)] == truth).int().tolist()
        return Measurement(
            events=tuple((ranks == 1).int().tolist()),
            ranks=tuple(ranks.tolist()),
            utility=tuple(utility),
            index={"queries": rows, "captions": pool_rows},
            notes=(note,) if note else (),
        )
