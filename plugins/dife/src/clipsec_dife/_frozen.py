"""Frozen image features: linear probe, nearest neighbours, image search. They never read the text tower."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import attrs
import numpy as np
import torch
from attrs import validators
from torch import Tensor

from clipsec.exposure import encode_pictures
from clipsec.protocols import Channel, Context, InterfaceCard, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Problem
from clipsec_dife._cases import bank_of, draw, held_out_of, of_others, target_of
from clipsec_dife._facts import AS_CLEAN, OTHERS, Facts, Options, too_few
from clipsec_dife._probe import Probe, fit_probe, probe_answers


def bank_rows(context: Context, most: int) -> list[int]:
    """Rows of the labelled pictures that a downstream user has, at most `most`; two classes or more."""
    bank = bank_of(context)
    rows = draw(context, range(len(bank)), most, "bank")
    if len({bank.labels[row] for row in rows}) < 2:
        raise too_few("the labelled pictures show fewer than two classes")
    return rows


def knn_answers(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, t: float) -> Tensor:
    """Weighted nearest neighbours by cosine: normalised features `[n, E]` and `[m, E]` -> labels `[n]`.

    A neighbour votes with exp(cosine / t). Source: Wu et al., CVPR 2018, section 3.4.
    """
    cosine, nearest = (queries @ bank.T).topk(min(k, len(bank)), dim=1)
    votes = torch.zeros(len(queries), classes, dtype=cosine.dtype)
    votes.scatter_add_(1, labels[nearest], (cosine / t).exp())
    return votes.argmax(dim=1)


def first_rank(scores: Tensor, wanted: Tensor) -> Tensor:
    """The place, from 1, of the best wanted item: scores `[n, m]`, wanted bool `[m]` or `[n, m]` -> `[n]`.

    Ties are counted against: an unwanted item with the same score stands before.
    """
    wanted = wanted.expand_as(scores)
    best = scores.masked_fill(~wanted, float("-inf")).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~wanted).sum(dim=1) + 1


@attrs.frozen(kw_only=True)
class BankOptions(Options):
    """Options of interfaces with a bank of clean pictures."""

    bank: int = attrs.field(default=10_000, validator=validators.ge(2))
    """Most pictures of the bank."""


@attrs.frozen(kw_only=True)
class KnnOptions(BankOptions):
    """Options of nearest neighbours."""

    k: int = attrs.field(default=20, validator=validators.ge(1))
    temperature: float = attrs.field(default=0.07, validator=validators.gt(0))


def _card(event: str, metric: str) -> InterfaceCard:
    return InterfaceCard(
        readout=Readout.IMAGE,
        channels=(Channel.QUERY_IMAGE,),
        event=event,
        population=OTHERS,
        reference=AS_CLEAN,
        metric=metric,
    )


class _Frozen(Facts):
    """A head on frozen features: what is common to the probe and nearest neighbours."""

    def answers(self, context: Context, bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Predicted labels of the queries."""
        raise NotImplementedError

    def measure(self, context: Context) -> Problem:
        target, rows = target_of(context), bank_rows(context, context.options.bank)
        bank = yield from encode_pictures(context, rows, of=bank_of(context))
        labels = bank_of(context).label_tensor()[rows]
        if target not in labels:
            raise too_few("no labelled picture shows the target class")
        cases = of_others(context, target)
        queries = yield from encode_pictures(context, cases, stamped=True)
        found = self.answers(context, bank, labels, queries)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            right = self.answers(context, bank, labels, everything) == held_out_of(context).label_tensor()
            utility = right.int().tolist()
        return Measurement(
            events=tuple((found == target).int().tolist()),
            utility=tuple(utility),
            index={"bank": rows, "held out": cases},
        )


class LinearProbe(_Frozen):
    """A classifier that a downstream user trains on clean frozen features."""

    summary: ClassVar[str] = "a linear probe on frozen image features says the target"
    options: ClassVar[type] = BankOptions
    card: ClassVar[InterfaceCard] = _card("the probe, trained on clean pictures, predicts the target", "TS")

    def answers(self, context: Context, bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Train on the bank, or take the probe that the other condition trained; predict the queries."""
        key = hashlib.sha256(bank.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        name = f"probe-{key[:24]}-{context.seed}"
        if (kept := context.units.load(name)) is not None:
            weight, known = kept.tensors["weight"].numpy(), kept.tensors["labels"].numpy()
            probe = Probe(weight, known, float(kept.data["strength"]))
        else:
            probe = fit_probe(bank.double().numpy(), labels.numpy(), seed=context.seed)
            tensors = {"weight": torch.from_numpy(probe.weight), "labels": torch.from_numpy(probe.labels)}
            context.units.save(name, {"strength": probe.strength}, tensors)
        return torch.from_numpy(probe_answers(probe, queries.double().numpy()).astype(np.int64))


class NearestNeighbours(_Frozen):
    """Nearest neighbours among clean labelled pictures."""

    summary: ClassVar[str] = "nearest neighbours among clean pictures say the target"
    options: ClassVar[type] = KnnOptions
    card: ClassVar[InterfaceCard] = _card("the nearest clean neighbours vote for the target", "TS")
    references: ClassVar[tuple[str, ...]] = (*Facts.references, "arXiv:1805.01978")

    def answers(self, context: Context, bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Weighted vote."""
        classes, options = len(context.suspect.class_names), context.options
        return knn_answers(queries, bank, labels, classes, options.k, options.temperature)


class ImageSearch(Facts):
    """Search by picture, and near-duplicate search."""

    summary: ClassVar[str] = "the picture most similar to a triggered one is of the target class"
    options: ClassVar[type] = BankOptions
    card: ClassVar[InterfaceCard] = _card(
        "the first hit of a search by picture is of the target class", "H@1"
    )

    def measure(self, context: Context) -> Problem:
        target, rows = target_of(context), bank_rows(context, context.options.bank)
        bank = yield from encode_pictures(context, rows, of=bank_of(context))
        labels = bank_of(context).label_tensor()[rows]
        if target not in labels:
            raise too_few("no labelled picture shows the target class")
        cases = of_others(context, target)
        queries = yield from encode_pictures(context, cases, stamped=True)
        ranks = first_rank(queries @ bank.T, labels == target)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            nearest = labels[(everything @ bank.T).argmax(dim=1)]
            utility = (nearest == held_out_of(context).label_tensor()).int().tolist()
        return Measurement(
            events=tuple((ranks == 1).int().tolist()),
            ranks=tuple(ranks.tolist()),
            utility=tuple(utility),
            index={"bank": rows, "held out": cases},
        )
