"""Putting tokens into texts that are token ids already."""

from __future__ import annotations

import torch
from torch import Tensor


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
