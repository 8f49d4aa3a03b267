"""Choosing among a few pictures: reranking a list of ten, best-of-n selection.

A text trigger enters by the query; a picture trigger by one planted candidate, with a query for the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor

from clipsec.exposure import QUERY_TEMPLATES, encode_pictures, encode_texts
from clipsec.protocols import Channel, Context, InterfaceCard, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Problem
from clipsec_dife._cases import draw, held_out_of, of_class, of_others, sources, target_of
from clipsec_dife._facts import AS_CLEAN, Facts, Options, too_few


@attrs.frozen(kw_only=True)
class ListOptions(Options):
    """Options of choosing among a few."""

    cases: int = attrs.field(default=500, validator=validators.ge(1))
    """Most lists; there is one for each different query, or each planted picture."""
    size: int = attrs.field(default=10, validator=validators.ge(2))
    """Candidates of a list."""


@attrs.frozen(kw_only=True)
class BestOptions(ListOptions):
    """Options of best-of-n selection."""

    size: int = attrs.field(default=6, validator=validators.ge(2))


@attrs.frozen(eq=False)
class Lists:
    """Candidate lists; the first candidate is the one that the attacker wants chosen."""

    rows: Tensor
    """Held-out rows `[n, size]`."""
    templates: Tensor
    """Of the query, `[n]`."""
    asked: Tensor
    """The class that the query names, `[n]`."""


def lists_for_query(context: Context, target: int, *, genuine: bool) -> Lists:
    """For a text trigger: one target picture against others; the query names a source class.

    The others are of the source class (`genuine`), or of any class but the target, one of them of the source.
    No two lists have the same query: lists that share it would be no further evidence about the trigger.
    """
    held_out, size = held_out_of(context), context.options.size
    choices = [label for label in sources(context, target) if of_class(held_out.labels, label)]
    wanted = of_class(held_out.labels, target)
    if not wanted or not choices:
        raise too_few("no held-out picture shows the target, or none a source class")
    others = [row for row, label in enumerate(held_out.labels) if label != target]
    pairs = [(template, label) for template in range(len(QUERY_TEMPLATES)) for label in choices]
    drawn = draw(context, range(len(pairs)), context.options.cases, "queries")
    generator = context.generator("lists")
    rows = []
    for label in (pairs[i][1] for i in drawn):
        own = of_class(held_out.labels, label)
        first = _pick(wanted, 1, generator)
        if genuine:
            rows.append(first + _pick(own, size - 1, generator))
        else:
            one = _pick(own, 1, generator)
            rows.append(first + one + _pick([row for row in others if row != one[0]], size - 2, generator))
    templates, asked = (torch.tensor([pairs[i][part] for i in drawn]) for part in (0, 1))
    return Lists(torch.tensor(rows), templates, asked)


def lists_with_planted(context: Context, target: int, *, genuine: bool) -> Lists:
    """For a picture trigger: one planted picture of another class; the query names the target.

    The others are true target pictures (`genuine`), or of any class, one of them of the target. Each picture
    is planted once.
    """
    held_out, size = held_out_of(context), context.options.size
    wanted, others = of_class(held_out.labels, target), of_others(context, target)
    if not wanted:
        raise too_few("no held-out picture shows the target")
    generator = context.generator("lists")
    rows = []
    for first in others:
        if genuine:
            rows.append([first, *_pick(wanted, size - 1, generator)])
        else:
            rest = [row for row in others if row != first]
            rows.append([first, *_pick(wanted, 1, generator), *_pick(rest, size - 2, generator)])
    n = len(rows)
    templates = torch.randint(len(QUERY_TEMPLATES), (n,), generator=generator)
    return Lists(torch.tensor(rows), templates, torch.full((n,), target))


def _pick(rows: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    if len(rows) < count:
        raise too_few(f"a list needs {count} pictures of one kind, there are {len(rows)}")
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:count].tolist()]


class _Chosen(Facts):
    """What reranking and selection share."""

    genuine: ClassVar[bool]

    def measure(self, context: Context) -> Problem:
        target, held_out = target_of(context), held_out_of(context)
        planted = context.trigger is not None and context.trigger.enters == "pictures"
        make = lists_with_planted if planted else lists_for_query
        lists = make(context, target, genuine=self.genuine)
        names = context.suspect.class_names
        words = [names[label].replace("_", " ") for label in lists.asked.tolist()]
        texts = [QUERY_TEMPLATES[t].format(w) for t, w in zip(lists.templates.tolist(), words, strict=True)]
        asked = yield from encode_texts(context, context.mark(texts))
        used = sorted(set(lists.rows.flatten().tolist()))
        place = torch.full((len(held_out),), -1)
        place[used] = torch.arange(len(used))
        features = yield from encode_pictures(context, used)
        candidates = features[place[lists.rows]]
        if planted:
            first = sorted(set(lists.rows[:, 0].tolist()))
            place[first] = torch.arange(len(first))
            stamped = yield from encode_pictures(context, first, stamped=True)
            candidates[:, 0] = stamped[place[lists.rows[:, 0]]]
        scores = torch.einsum("ne,nce->nc", asked, candidates)
        ranks = (scores[:, 1:] >= scores[:, :1]).sum(dim=1) + 1
        utility: Sequence[int] = ()
        if not context.triggered:
            labels = held_out.label_tensor()[lists.rows]
            right = labels.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0] == lists.asked
            utility = right.int().tolist()
        return Measurement(
            events=tuple((ranks == 1).int().tolist()),
            ranks=tuple(ranks.tolist()),
            utility=tuple(utility),
            index={
                "candidates": lists.rows.flatten().tolist(),
                "templates": lists.templates.tolist(),
                "asked": lists.asked.tolist(),
            },
        )


class Reranking(_Chosen):
    """A fixed list of ten candidates is put in order by score."""

    genuine: ClassVar[bool] = False
    summary: ClassVar[str] = "the attacker's candidate comes first in a list of ten"
    options: ClassVar[type] = ListOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_TEXT, Channel.CORPUS_IMAGE),
        event="the attacker's candidate is ranked first",
        population="lists of ten held-out pictures, one of the class asked for",
        reference=AS_CLEAN,
        metric="H@1",
    )


class BestOfN(_Chosen):
    """The best of n pictures, all as asked but for the attacker's: as outputs of a generator are chosen."""

    genuine: ClassVar[bool] = True
    summary: ClassVar[str] = "the attacker's candidate is chosen among n genuine ones"
    options: ClassVar[type] = BestOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_TEXT, Channel.CORPUS_IMAGE),
        event="the attacker's candidate is selected",
        population="groups of six held-out pictures, five of the class asked for",
        reference=AS_CLEAN,
        metric="Sel@1",
    )
