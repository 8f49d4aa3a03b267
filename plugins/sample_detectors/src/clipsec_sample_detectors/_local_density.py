"""The detector of poisoned training pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.errors import DataError
from clipsec.protocols import Context, Need
from clipsec.scheduler import Problem
from clipsec_sample_detectors._density import batches, density_scores, mismatch
from clipsec_sample_detectors._options import LocalDensityOptions
from clipsec_sample_detectors._pairs import PairFeatures, Pairs, encode_pairs, short_names
from clipsec_sample_detectors._tail import Tail, fewest_clean, tail
from clipsec_sample_detectors._verdict import Samples, make_verdict

UNTESTED = (
    "this is about these pairs, seen by this model: it says nothing about the model itself, nor about pairs "
    "that it was trained on and that were not given"
)
USE = "published use: leave out the tenth that ranks highest, and train again"


class LocalDensity:
    """Huang et al., ICLR 2025: poisoned training pairs lie in sparser places of CLIP space than others."""

    summary: ClassVar[str] = "poisoned training pairs, by the local density of their features"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER})
    options: ClassVar[type] = LocalDensityOptions
    references: ClassVar[tuple[str, ...]] = (
        "Huang et al., Detecting Backdoor Samples in Contrastive Language Image Pretraining, ICLR 2025, "
        "arXiv 2502.01385",
    )
    by_default: ClassVar[bool] = False
    """It judges pairs that somebody names, not the model."""
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"k": 4, "lid_k": 8},
        "weakness": "it judges pairs of pictures and captions, and calls no model clean or backdoored",
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`.

        Pairs to judge and clean ones are shuffled together before they are cut into batches, so that under
        the null they are exchangeable. Raises `NotApplicableError` without pairs, `DataError` when there are
        too few or they cannot be read.
        """
        options: LocalDensityOptions = context.options
        judged, clean = Pairs.of(context)
        if clean is not None and len(clean.paths) < fewest_clean(options.share):
            raise DataError(
                f"{len(clean.paths)} clean pictures are too few for a threshold at {options.share:.1%}",
                remedy=f"Bring {fewest_clean(options.share)} or more, or raise the option share.",
            )
        ours: PairFeatures = yield from encode_pairs(context, judged, "pairs")
        theirs: PairFeatures | None = None
        if clean is not None:
            theirs = yield from encode_pairs(context, clean, "clean")
        scores = _scores(options, ours, theirs, context.generator("batches"))
        n = len(ours.pairs)
        found: Tail | None = None
        if theirs is not None:
            chosen = scores[options.statistic]
            # Pairs of one picture score alike: what can be exchanged are pictures.
            found = tail(
                by_picture(chosen[:n], ours.pairs.picture),
                by_picture(chosen[n:], theirs.pairs.picture),
                options.share,
            )
        names = short_names(judged.paths)
        samples = Samples(
            what="pairs",
            names=[names[picture] for picture in ours.pairs.picture],
            paths=[ours.pairs.path(row) for row in range(n)],
            columns={"caption": ours.pairs.captions},
            scores={name: values[:n] for name, values in scores.items()},
            chosen=options.statistic,
        )
        left_out = ours.unreadable + (0 if theirs is None else theirs.unreadable)
        notes = [USE]
        if left_out:
            notes.append(f"{left_out} pairs were left out: their pictures cannot be decoded")
        return make_verdict(context, samples, found, shown=options.shown, untested=UNTESTED, notes=notes)


def by_picture(scores: Tensor, picture: Sequence[int]) -> Tensor:
    """The highest score of each picture's pairs, in the order of their first pairs."""
    highest: dict[int, float] = {}
    for number, score in zip(picture, scores.tolist(), strict=True):
        highest[number] = max(score, highest.get(number, score))
    return torch.tensor(list(highest.values()), dtype=scores.dtype)


def _scores(
    options: LocalDensityOptions,
    ours: PairFeatures,
    theirs: PairFeatures | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """All statistics of the pairs to judge and, behind them, of the clean ones."""
    both = [ours] if theirs is None else [ours, theirs]
    pictures = torch.cat([each.pictures for each in both])
    captions = torch.cat([each.captions for each in both])
    numbers = [(place, picture) for place, each in enumerate(both) for picture in each.pairs.picture]
    known = {number: position for position, number in enumerate(dict.fromkeys(numbers))}
    same = torch.tensor([known[number] for number in numbers])
    found: dict[str, Tensor] = {}
    for rows in batches(len(pictures), options.batch, generator):
        part = density_scores(
            pictures[rows],
            captions[rows] if options.pair_mode else None,
            options.k,
            options.lid_k,
            same[rows],
        )
        for name, values in part.items():
            found.setdefault(name, torch.empty(len(pictures), dtype=values.dtype))[rows] = values
    return {**found, "clipscore": mismatch(pictures, captions)}
