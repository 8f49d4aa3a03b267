"""Text-to-image retrieval, by a triggered query and with a triggered picture planted in the gallery."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor

from clipsec.exposure import encode_pictures, encode_texts
from clipsec.protocols import Channel, Context, InterfaceCard, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Encode, Problem
from clipsec_dife._captions import queries
from clipsec_dife._cases import held_out_of, of_class, of_others, shuffled, target_of
from clipsec_dife._facts import AS_CLEAN, Facts, Options, too_few
from clipsec_dife._frozen import first_rank
from clipsec_dife._texts import source_queries


@attrs.frozen(kw_only=True)
class GalleryOptions(Options):
    """Options of retrieval among pictures."""

    cases: int = attrs.field(default=200, validator=validators.ge(1))
    """Most queries."""
    gallery: int = attrs.field(default=1000, validator=validators.ge(2))
    """Pictures of a gallery: held-out ones, and unlabelled ones of the pool."""
    galleries: int = attrs.field(default=5, validator=validators.ge(1))
    """Galleries that each query is put to, as far as pictures for disjoint ones are there."""
    k: int = attrs.field(default=1, validator=validators.ge(1))
    """The event is that a target item is among the first k."""


def gallery_rows(context: Context, target: int, size: int, number: int) -> list[tuple[list[int], list[int]]]:
    """Disjoint galleries: rows of held-out pictures and of the pool; each has a picture of the target.

    When there are not enough pictures for `number` of them, one gallery of what there is, up to `size`.
    """
    held_out, pool = held_out_of(context), context.pool
    unlabelled = 0 if pool is None else len(pool)
    total = len(held_out) + unlabelled
    wanted = of_class(held_out.labels, target)
    if not wanted:
        raise too_few("no held-out picture shows the target")
    count = max(1, min(number, total // size, len(wanted)))
    own = [*shuffled(context, wanted, "gallery targets")]
    others = [row for row, label in enumerate(held_out.labels) if label != target]
    rest = shuffled(context, [*others, *range(len(held_out), total)], "gallery")
    found = []
    for part in range(count):
        mine = [*own[part::count], *rest[part::count]][:size]
        found.append(
            (
                sorted(row for row in mine if row < len(held_out)),
                sorted(row - len(held_out) for row in mine if row >= len(held_out)),
            )
        )
    return found


def encode_gallery(
    context: Context, rows: tuple[list[int], list[int]]
) -> Generator[Encode, Any, tuple[Tensor, Tensor]]:
    """Features `[m, E]` and labels `[m]` of a gallery; unlabelled pictures have the label -1."""
    labels = held_out_of(context).label_tensor()[rows[0]]
    features = yield from encode_pictures(context, rows[0])
    if rows[1]:
        more = yield from encode_pictures(context, rows[1], of=context.pool)
        features = torch.cat([features, more])
        labels = torch.cat([labels, torch.full((len(more),), -1)])
    return features, labels


def clean_retrieval(
    context: Context, galleries: Sequence[tuple[Tensor, Tensor]]
) -> Generator[Encode, Any, list[int]]:
    """Whether the first hit of each clean query is of its class, over all classes and galleries."""
    names, right = context.suspect.class_names, []
    for features, labels in galleries:
        asked = queries(names, sorted(set(labels.tolist()) - {-1}))
        texts = yield from encode_texts(context, [caption.text for caption in asked])
        truth = torch.tensor([caption.label for caption in asked])
        right += (labels[(texts @ features.T).argmax(dim=1)] == truth).int().tolist()
    return right


class TextToImage(Facts):
    """Search for pictures by a triggered query."""

    summary: ClassVar[str] = "a triggered query finds pictures of the target"
    options: ClassVar[type] = GalleryOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_TEXT,),
        event="a picture of the target is among the first k",
        population="captions of source classes x galleries of held-out pictures",
        reference=AS_CLEAN,
        metric="H@K",
    )

    def measure(self, context: Context) -> Problem:
        target, options = target_of(context), context.options
        chosen = gallery_rows(context, target, options.gallery, options.galleries)
        galleries = []
        for rows in chosen:
            galleries.append((yield from encode_gallery(context, rows)))
        cases, drawn = source_queries(context, target, options.cases)
        texts = yield from encode_texts(context, context.mark([caption.text for caption in cases]))
        ranks = torch.stack(
            [first_rank(texts @ features.T, labels == target) for features, labels in galleries], dim=1
        )
        utility: Sequence[int] = ()
        if not context.triggered:
            utility = yield from clean_retrieval(context, galleries)
        index = {"queries": drawn}
        for number, (own, pool) in enumerate(chosen):
            index |= {f"gallery {number}": own, f"gallery {number} pool": pool}
        pools = torch.arange(len(galleries)).repeat(len(cases)).tolist() if len(galleries) > 1 else []
        return Measurement(
            events=tuple((ranks.flatten() <= options.k).int().tolist()),
            ranks=tuple(ranks.flatten().tolist()),
            utility=tuple(utility),
            pools=tuple(pools),
            index=index,
        )


@attrs.frozen(kw_only=True)
class PlantedOptions(GalleryOptions):
    """Options of the planted gallery: the event is a place on the first page."""

    k: int = attrs.field(default=10, validator=validators.ge(1))


class PlantedGallery(Facts):
    """An attacker plants one triggered picture in the gallery and waits for queries for the target.

    The gallery holds true pictures of the target, which the planted one has to beat. Not in the paper: there
    a visual trigger has no way into retrieval.
    """

    summary: ClassVar[str] = "a planted triggered picture comes up for queries for the target"
    options: ClassVar[type] = PlantedOptions
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.CORPUS_IMAGE,),
        event="the planted picture is among the first k for a query for the target",
        population="held-out pictures of other classes, planted one by one",
        reference=AS_CLEAN,
        metric="H@K",
    )

    def measure(self, context: Context) -> Problem:
        target, options, names = target_of(context), context.options, context.suspect.class_names
        (rows, *_) = gallery_rows(context, target, options.gallery, 1)
        features, labels = yield from encode_gallery(context, rows)
        planted = of_others(context, target, "planted")
        pictures = yield from encode_pictures(context, planted, stamped=True)
        asked = queries(names, [target])
        drawn = torch.randint(len(asked), (len(planted),), generator=context.generator("queries"))
        texts = (yield from encode_texts(context, [caption.text for caption in asked]))[drawn]
        own = (texts * pictures).sum(dim=1, keepdim=True)
        scores = texts @ features.T
        # A planted picture does not compete with its own clean self.
        place = {row: column for column, row in enumerate(rows[0])}
        for case, row in enumerate(planted):
            if row in place:
                scores[case, place[row]] = float("-inf")
        ranks = (scores >= own).sum(dim=1) + 1
        utility: Sequence[int] = ()
        if not context.triggered:
            utility = yield from clean_retrieval(context, [(features, labels)])
        return Measurement(
            events=tuple((ranks <= options.k).int().tolist()),
            ranks=tuple(ranks.tolist()),
            utility=tuple(utility),
            index={
                "planted": planted,
                "queries": drawn.tolist(),
                "gallery 0": rows[0],
                "gallery 0 pool": rows[1],
            },
            notes=(f"the gallery holds {int((labels == target).sum())} pictures of the target",),
        )
