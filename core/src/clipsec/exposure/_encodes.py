"""Generators for interfaces: encode pictures and texts of a context through the scheduler.

    features = yield from encode_pictures(context, rows)           # of context.held_out
    prompts = yield from encode_texts(context, ["a photo of a cat."])

What several interfaces of a run ask for is computed once: rows are keyed by content.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Generator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, Suspect, TextPart, VisualPart, prepare_text_tower, truncate_ids
from clipsec.protocols import Context
from clipsec.scheduler import Encode, Tower

CHUNK = 64
"""Pictures that are stamped at once."""
_BUCKET = 8
"""Texts are cut to a multiple of this many tokens, so that a text is one row whoever asks for it."""

Encoding = Generator[Encode, Any, Tensor]

_text_towers: weakref.WeakKeyDictionary[TextPart, dict[tuple[int, torch.dtype, str], Tower]] = (
    weakref.WeakKeyDictionary()
)
_image_towers: weakref.WeakKeyDictionary[VisualPart, dict[tuple[torch.dtype, str], Tower]] = (
    weakref.WeakKeyDictionary()
)


def encode_pictures(
    context: Context,
    rows: Sequence[int] | None = None,
    *,
    of: LabelledSet | ImagePool | None = None,
    stamped: bool = False,
    unit: bool = True,
) -> Encoding:
    """Image features of the model under test, fp32 `[n, E]`, L2-normalised unless `unit` is False.

    `rows` of `of` (by default of `context.held_out`), all of them if not said. `stamped` puts the trigger on,
    in the triggered condition. Raises `NotApplicableError` when there are no pictures.
    """
    visual = context.suspect.base.visual
    source = context.held_out if of is None else of
    if visual is None or source is None:
        raise NotApplicableError(
            "there are no pictures to encode", remedy="Bring labelled pictures with --labelled."
        )
    pixels = source.pixels(visual.spec)
    chosen = list(range(len(pixels)) if rows is None else rows)
    tower = _image_tower(context.suspect, visual, context.decision_dtype)
    put = stamped and context.triggered and context.trigger is not None
    key = context.trigger.digest.encode()[:32] if put and context.trigger is not None else b""
    found = []
    for start in range(0, len(chosen), CHUNK):
        raw = pixels[chosen[start : start + CHUNK]]
        keys = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16, key=key).digest() for row in raw]
        clean = to_unit(raw)
        found.append((yield Encode(tower, context.stamp(clean) if put else clean, row_keys=keys)))
    features = torch.cat(found) if found else torch.zeros(0, visual.embed_dim)
    return F.normalize(features, dim=-1) if unit else features


def encode_texts(context: Context, texts: Sequence[str], *, unit: bool = True) -> Encoding:
    """Text features of the model under test, fp32 `[n, E]`, L2-normalised unless `unit` is False;
    `context.mark` puts a trigger in.

    Raises `NotApplicableError` when the model has no text tower.
    """
    clip = context.suspect.base
    if clip.text is None:
        raise NotApplicableError(f"{clip.name} has no text tower", remedy="Load a model with both towers.")
    by_length: dict[int, list[int]] = {}
    ids = clip.text.tokenizer(list(texts))
    for row in range(len(texts)):
        by_length.setdefault(_length(clip, ids[row : row + 1]), []).append(row)
    found = torch.zeros(len(texts), clip.text.embed_dim)
    for length, members in sorted(by_length.items()):
        tower = text_tower(context.suspect, length, context.decision_dtype)
        found[members] = (yield Encode(tower, ids[members, :length])).to(found)
    return F.normalize(found, dim=-1) if unit else found


def _length(clip: ClipModel, ids: Tensor) -> int:
    assert clip.text is not None
    needed = truncate_ids(clip, ids).shape[1]
    return min(clip.text.context_length, -(-needed // _BUCKET) * _BUCKET)


def _image_tower(suspect: Suspect, part: VisualPart, dtype: torch.dtype) -> Tower:
    """The suspect's image tower, prepared once for each image branch: hybrids share them."""
    kept = _image_towers.setdefault(part, {})
    key = (dtype, str(suspect.device))
    if key not in kept:
        kept[key] = suspect.image_tower(dtype)
    return kept[key]


def text_tower(suspect: Suspect, length: int, dtype: torch.dtype = torch.float32) -> Tower:
    """The suspect's text tower for rows of `length` tokens, prepared once for each text branch."""
    part = suspect.base.text
    assert part is not None
    kept = _text_towers.setdefault(part, {})
    key = (length, dtype, str(suspect.device))
    if key not in kept:
        kept[key] = prepare_text_tower(suspect.base, dtype, suspect.device, length)
    return kept[key]
