"""The detector of triggered pictures at inference time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.errors import DataError, EmptyPoolError
from clipsec.exposure import encode_pictures, encode_texts
from clipsec.protocols import Context, Need
from clipsec.scheduler import Problem
from clipsec_sample_detectors._contrast import mean_direction, omega
from clipsec_sample_detectors._options import BDetClipOptions
from clipsec_sample_detectors._pairs import short_names
from clipsec_sample_detectors._tail import fewest_clean, tail
from clipsec_sample_detectors._texts import benign_texts, malignant_texts
from clipsec_sample_detectors._verdict import Samples, make_verdict

SCORE = "-omega"
UNTESTED = (
    "this is about the pictures of the pool: it says nothing about the model itself, whose trigger need not "
    "be on any of them"
)


class BDetClip:
    """BDetCLIP (Niu et al., ICML 2025): triggered pictures gain less from descriptions of classes over noise
    about them than clean pictures do."""

    summary: ClassVar[str] = "triggered pictures of a pool, by descriptions against noise texts"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.IMAGE_POOL, Need.LABELS}
    )
    options: ClassVar[type] = BDetClipOptions
    references: ClassVar[tuple[str, ...]] = ("Niu et al., BDetCLIP, ICML 2025",)
    by_default: ClassVar[bool] = False
    """It judges pictures that somebody names, not the model; and others found it weaker than published."""
    conformance: ClassVar[Mapping[str, Any]] = {
        "weakness": "it judges the pictures of the pool, and calls no model clean or backdoored",
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict` on the pool, beside the labelled pictures as clean.

        Classes are the suspect's, else the labelled set's. Raises `EmptyPoolError` without a picture in the
        pool, `DataError` for too few clean pictures or a file of descriptions that cannot be read.
        """
        options: BDetClipOptions = context.options
        clean, pool = context.labelled, context.pool
        assert clean is not None
        if pool is None or not len(pool):
            raise EmptyPoolError("no pictures were given", remedy="Name a folder of pictures with --pool.")
        if len(clean) < fewest_clean(options.share):
            raise DataError(
                f"{len(clean)} clean pictures are too few for a threshold at {options.share:.1%} of them",
                remedy=f"Bring {fewest_clean(options.share)} or more with --labelled, or raise the option "
                "share.",
            )
        names = context.suspect.class_names or clean.class_names
        benign, undescribed = benign_texts(names, options.descriptions)
        malignant = malignant_texts(names, options.templates, options.words, context.generator("noise"))
        kind = yield from _directions(context, benign)
        noise = yield from _directions(context, malignant)
        context.progress(0.1, "encoding pictures")
        seen: Tensor = yield from encode_pictures(context, of=pool)
        known: Tensor = yield from encode_pictures(context, of=clean)
        scores, expected = -omega(seen, kind, noise), -omega(known, kind, noise)
        samples = Samples(
            what="pictures",
            names=short_names(pool.paths),
            paths=pool.paths,
            columns={},
            scores={SCORE: scores},
            chosen=SCORE,
        )
        notes = [f"the pool is {pool.name!r}, the clean pictures are {clean.name!r}"]
        if undescribed:
            which = ", ".join(undescribed[:3]) + (", ..." if len(undescribed) > 3 else "")
            notes.append(
                f"{len(undescribed)} of {len(names)} classes have no descriptions ({which}) and got "
                "templates: bring some with -o bdetclip.descriptions=FILE"
            )
        return make_verdict(
            context,
            samples,
            tail(scores, expected, options.share),
            shown=options.shown,
            untested=UNTESTED,
            notes=notes,
        )


def _directions(context: Context, texts: list[list[str]]) -> Any:
    """The mean direction of each class's texts, `[C, E]`."""
    features: Tensor = yield from encode_texts(context, [text for each in texts for text in each])
    parts = features.split([len(each) for each in texts])
    return torch.stack([mean_direction(part) for part in parts])
