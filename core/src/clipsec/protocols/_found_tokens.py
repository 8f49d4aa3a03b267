"""What a detector of text towers puts into captions: tokens, or vectors in the place of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.results import Artifact, Verdict
from clipsec.store import read_artifact
from clipsec_registry import printable

SITES = ("start", "end")
LONGEST = 64
"""Tokens of a sequence; a file with longer ones is no finding."""


@attrs.frozen(kw_only=True, eq=False)
class FoundTokens:
    """A sequence that was found to work in captions; either `ids` or `vectors`."""

    ids: tuple[int, ...] = ()
    """Of the suspect's own vocabulary."""
    vectors: Tensor | None = None
    """`[k, width]`, which enter the first block without a position (AMDET)."""
    site: str = "start"
    """`start`: behind the start token; `end`: before the end token."""
    text: str = ""
    """For people."""
    target: str = ""
    """What the detector says that it leads to."""
    origin: str = ""
    """The detector."""

    def __len__(self) -> int:
        return len(self.ids) if self.vectors is None else len(self.vectors)


def found_tokens(verdict: Verdict, folder: Path | str) -> tuple[FoundTokens, ...]:
    """The sequences that a detector left as artifacts of its verdict, the strongest first.

    Two kinds are read: `sequences`, a JSON list of objects with `ids`, `text` and `site`, row i belonging to
    evidence i, of which only flagged ones count; and `feature`, a safetensors file with `vectors [k, width]`.
    `folder` is what the artifacts' paths count from (the run's). Raises `StoreError` for a file that is gone
    or was changed since, `DataError` for one that holds none.
    """
    target = verdict.target or ""
    origin = "" if verdict.provenance is None else verdict.provenance.detector
    flagged = {row.index for row in verdict.evidence if row.flagged}
    found: list[FoundTokens] = []
    for artifact in verdict.artifacts:
        read = {"sequences": _sequences, "feature": _vectors}.get(artifact.kind)
        if read is None:
            continue
        content = read_artifact(artifact, folder)
        try:
            rows = list(read(content))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _unreadable(artifact) from error
        kept = [row for place, row in rows if place is None or place in flagged]
        found += [attrs.evolve(row, target=target, origin=origin) for row in kept]
    return tuple(found)


def _sequences(content: bytes) -> Iterator[tuple[int | None, FoundTokens]]:
    rows: Any = json.loads(content)
    if not isinstance(rows, list):
        raise ValueError("not a list")
    for place, row in enumerate(rows):
        ids = row["ids"]
        if not (isinstance(ids, list) and 0 < len(ids) <= LONGEST):
            raise ValueError("no sequence")
        if not all(type(each) is int and each >= 0 for each in ids) or row["site"] not in SITES:
            raise ValueError("not token ids, or no place in a caption")
        yield place, FoundTokens(ids=tuple(ids), site=row["site"], text=printable(row["text"], 120))


def _vectors(content: bytes) -> Iterator[tuple[int | None, FoundTokens]]:
    vectors = safetensors.torch.load(content)["vectors"].float()
    if vectors.ndim != 2 or not 0 < len(vectors) <= LONGEST or not bool(torch.isfinite(vectors).all()):
        raise ValueError("no vectors")
    yield None, FoundTokens(vectors=vectors, text=f"{len(vectors)} vector(s)")


def _unreadable(artifact: Artifact) -> DataError:
    return DataError(
        f"{printable(artifact.path, 120)} holds no sequence that can be put into captions",
        remedy="Audit again; if it stays so, report it to the detector's authors.",
    )
