"""Putting tokens into texts that are token ids already."""

from __future__ import annotations

import torch
from torch import Tensor

from clipsec.models._embedding_tower import end_positions, is_causal
from clipsec.models._types import ClipModel


def insert_tokens(ids: Tensor, tokens: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Put `tokens [k]` before position `at [n]` of each row of `ids [n, L]`, cut to `L`.

    Returns the new ids `[n, L]` and where each position came from, int64 `[n, L]`: its old position, or -1
    for an inserted token. Choose rows with `k` positions of room, or they lose their end.
    """
    (n, length), k = ids.shape, len(tokens)
    places = torch.arange(length, device=ids.device).expand(n, -1)
    start = at[:, None]
    behind = places >= start + k
    inside = (places >= start) & ~behind
    source = torch.where(behind, places - k, places)
    put = tokens[(places - start).clamp(0, k - 1)]
    return torch.where(inside, put, ids.gather(1, source)), torch.where(inside, -1, source)


def text_ends(clip: ClipModel, ids: Tensor) -> Tensor:
    """Where each text of `ids [n, L]` ends, int64 `[n]`: its end token, or (SigLIP) the first of the equal
    tokens that it is padded with. Raises `NotApplicableError` like `prepare_embedding_tower`."""
    if is_causal(clip):
        return end_positions(clip, ids)
    places = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(ids != ids[:, -1:], places, -1).max(dim=1).values + 1
