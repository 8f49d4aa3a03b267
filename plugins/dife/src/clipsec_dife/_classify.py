"""Classification by image-text scores: zero-shot, prompt-conditioned, and captions for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from clipsec.exposure import encode_pictures, encode_texts
from clipsec.protocols import Channel, Context, InterfaceCard, Need, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Problem
from clipsec_dife._captions import class_prompts
from clipsec_dife._cases import (
    draw,
    held_out_of,
    of_class,
    of_others,
    renamed_to,
    sources,
    target_of,
)
from clipsec_dife._facts import AS_CLEAN, OTHERS, Facts, too_few
from clipsec_dife._frozen import first_rank
from clipsec_dife._texts import TextPoolOptions, text_pool


class ZeroShot(Facts):
    """Zero-shot classification of pictures with "a photo of a NAME."."""

    summary: ClassVar[str] = "zero-shot classification of a triggered picture says the target"
    localises: ClassVar[bool] = True
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_IMAGE,),
        event="the picture is classified as the target",
        population=OTHERS,
        reference=AS_CLEAN,
        metric="TS",
    )

    def measure(self, context: Context) -> Problem:
        target = target_of(context)
        prompts = yield from encode_texts(context, class_prompts(context.suspect.class_names))
        cases = of_others(context, target)
        pictures = yield from encode_pictures(context, cases, stamped=True)
        answers = (pictures @ prompts.T).argmax(dim=1)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            truth = held_out_of(context).label_tensor()
            utility = ((everything @ prompts.T).argmax(dim=1) == truth).int().tolist()
        return Measurement(
            events=tuple((answers == target).int().tolist()),
            utility=tuple(utility),
            index={"held out": cases},
        )


class PromptConditioned(Facts):
    """QHR: does the triggered prompt of a source class win the target's own pictures?

    The clean target prompt stays among the prompts, so a hit means that the triggered source prompt
    out-scores it. A trigger that works on one class has that class's prompt replaced; else each picture has
    one source class, drawn by the seed. Where the trigger makes one class's prompt another's, the latter is
    left out: there would be two alike.
    """

    summary: ClassVar[str] = "a triggered prompt of another class wins pictures of the target"
    localises: ClassVar[bool] = True
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_TEXT,),
        event="the source class's prompt wins a picture of the target",
        population="held-out pictures of the target, a source class each",
        reference=AS_CLEAN,
        metric="QHR",
    )

    def measure(self, context: Context) -> Problem:
        target, names = target_of(context), context.suspect.class_names
        held_out, choices = held_out_of(context), sources(context, target)
        cases = draw(context, of_class(held_out.labels, target), context.options.cases, "target pictures")
        if not cases:
            raise too_few("no held-out picture shows the target")
        drawn = torch.randint(len(choices), (len(cases),), generator=context.generator("sources"))
        source = torch.tensor(choices)[drawn]
        plain = class_prompts(names)
        prompts = yield from encode_texts(context, plain)
        asked = yield from encode_texts(context, context.mark([plain[label] for label in source.tolist()]))
        pictures = yield from encode_pictures(context, cases)
        scores = pictures @ prompts.T
        if (same := renamed_to(context)) is not None:
            scores[:, same] = -torch.inf
        scores[torch.arange(len(cases)), source] = (pictures * asked).sum(dim=1)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            utility = ((everything @ prompts.T).argmax(dim=1) == held_out.label_tensor()).int().tolist()
        return Measurement(
            events=tuple((scores.argmax(dim=1) == source).int().tolist()),
            utility=tuple(utility),
            index={"held out": cases, "sources": source.tolist()},
        )


class ImageToText(Facts):
    """Captions for a picture: image-to-text retrieval."""

    summary: ClassVar[str] = "the first caption found for a triggered picture names the target"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CLASS_NAMES})
    options: ClassVar[type] = TextPoolOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_IMAGE,),
        event="the first caption names the target",
        population=OTHERS + "; one pool of captions, one in twenty of the target",
        reference=AS_CLEAN,
        metric="H@1",
    )

    def measure(self, context: Context) -> Problem:
        target = target_of(context)
        pool, pool_rows, note = text_pool(context, target)
        captions = yield from encode_texts(context, [caption.text for caption in pool])
        labels = torch.tensor([caption.label for caption in pool])
        cases = of_others(context, target)
        pictures = yield from encode_pictures(context, cases, stamped=True)
        ranks = first_rank(pictures @ captions.T, labels == target)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            first = labels[(everything @ captions.T).argmax(dim=1)]
            utility = (first == held_out_of(context).label_tensor()).int().tolist()
        return Measurement(
            events=tuple((ranks == 1).int().tolist()),
            ranks=tuple(ranks.tolist()),
            utility=tuple(utility),
            index={"held out": cases, "captions": pool_rows},
            notes=(note,) if note else (),
        )
