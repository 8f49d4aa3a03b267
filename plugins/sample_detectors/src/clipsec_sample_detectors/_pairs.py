"""Pairs of pictures and captions, and their features through the scheduler."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES as TEMPLATES
from torch import Tensor

from clipsec.data import ImagePool, read_pairs
from clipsec.errors import DataError, NotApplicableError
from clipsec.exposure import encode_pictures, encode_texts
from clipsec.protocols import Context
from clipsec.scheduler import Problem
from clipsec_sample_detectors._options import LocalDensityOptions

CHUNK = 512
"""Pictures that are in memory at once, and a unit that survives a kill."""


@attrs.frozen
class Pairs:
    """Pairs by row; a picture may have several."""

    paths: tuple[Path, ...]
    """Of the pictures."""
    picture: tuple[int, ...]
    """`[n]`: the picture of each pair."""
    captions: tuple[str, ...]
    """`[n]`."""

    @classmethod
    def of_file(cls, file: str) -> Pairs:
        """All pairs of a CSV file. Raises `DataError`."""
        paths, captions = read_pairs(file)
        rows = [(place, text) for place, texts in enumerate(captions) for text in texts]
        return cls(tuple(paths), tuple(place for place, _ in rows), tuple(text for _, text in rows))

    @classmethod
    def of(cls, context: Context) -> tuple[Pairs, Pairs | None]:
        """The pairs to judge, and the clean ones if there are. Raises `NotApplicableError` or `DataError`."""
        options: LocalDensityOptions = context.options
        clean = cls.of_file(options.clean) if options.clean else None
        if options.pairs:
            return cls.of_file(options.pairs), clean
        if context.labelled is None:
            raise NotApplicableError(
                "there are no training pairs to look at",
                remedy="Name a CSV file of pictures and captions with -o local-density.pairs=FILE, or "
                "labelled pictures with --labelled.",
            )
        # Prompts differ, for more than k equal captions would be one point at distance zero.
        labelled, generator = context.labelled, context.generator("prompts")
        drawn = torch.randint(len(TEMPLATES), (len(labelled),), generator=generator).tolist()
        captions = [
            TEMPLATES[template](labelled.class_names[label].replace("_", " "))
            for template, label in zip(drawn, labelled.labels, strict=True)
        ]
        return cls(labelled.paths, tuple(range(len(labelled))), tuple(captions)), clean

    def __len__(self) -> int:
        return len(self.captions)

    def select(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            self.paths, tuple(self.picture[row] for row in rows), tuple(self.captions[row] for row in rows)
        )

    def path(self, row: int) -> Path:
        """The file of a pair's picture."""
        return self.paths[self.picture[row]]


@attrs.frozen(eq=False)
class PairFeatures:
    """Pairs whose pictures could be read, with features that are not normalised."""

    pairs: Pairs
    pictures: Tensor
    """`[n, E]`."""
    captions: Tensor
    """`[n, E]`."""
    unreadable: int
    """Pairs that were left out."""


def encode_pairs(context: Context, pairs: Pairs, name: str) -> Problem:
    """`PairFeatures`; features of pictures are stored as units of the verdict, under `name`.

    Raises `DataError` when more than a tenth of a chunk's pictures cannot be read, or nearly all.
    """
    chunks, kept = list[Tensor](), list[int]()
    for start in range(0, len(pairs.paths), CHUNK):
        features, rows = yield from _chunk(context, pairs.paths[start : start + CHUNK], f"{name}-{start:07d}")
        chunks.append(features)
        kept += [start + row for row in rows]
        context.progress(0.9 * (start + CHUNK) / (len(pairs.paths) + CHUNK), f"encoding the {name} pictures")
    place = {picture: position for position, picture in enumerate(kept)}
    rows = [row for row, picture in enumerate(pairs.picture) if picture in place]
    if len(rows) < 2:
        raise DataError("there are fewer than two pairs", remedy="Bring some hundred.")
    found = pairs.select(rows)
    texts = list(dict.fromkeys(found.captions))
    said: Tensor = yield from encode_texts(context, texts, unit=False)
    line = {text: position for position, text in enumerate(texts)}
    return PairFeatures(
        pairs=found,
        pictures=torch.cat(chunks)[[place[picture] for picture in found.picture]],
        captions=said[[line[text] for text in found.captions]],
        unreadable=len(pairs) - len(rows),
    )


def _chunk(context: Context, paths: Sequence[Path], name: str) -> Any:
    """Features `[n, E]` of the pictures that can be read, and which of `paths` they are."""
    unit = context.units.load(name)
    if unit is None:
        pool = ImagePool(tuple(paths), name="the pairs")
        features: Tensor = yield from encode_pictures(context, of=pool, unit=False)
        read = set(pool.paths)
        rows = [row for row, path in enumerate(paths) if path in read]
        context.units.save(name, {"rows": rows}, {"features": features.float().contiguous()})
        return features, rows
    return unit.tensors["features"], unit.data["rows"]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Each path without what all have in common."""
    if len(paths) < 2:
        return [path.name for path in paths]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]
