"""How far a tower takes captions when tokens are put into them, beyond what another tower does with them.

Ours. The paired null is the same number with the towers exchanged: a benign fine-tune moves a tower away from
its reference as much as it moves the reference away from it, a planted trigger works in one of them alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def insert_ids(rows: Tensor, sequences: Tensor, at: Tensor) -> Tensor:
    """Token ids `rows [m, L]` with each of `sequences [n, k]` put in before position `at [m]`, cut to `L`:
    `[n, m, L]`."""
    n, k = sequences.shape
    m, length = rows.shape
    places = torch.arange(length).expand(m, -1)
    start = at[:, None]
    inside = (places >= start) & (places < start + k)
    kept = rows.gather(1, torch.where(places >= start + k, places - k, places))
    chosen = (places - start).clamp(0, k - 1)
    new = sequences[:, chosen.reshape(-1)].reshape(n, m, length)
    return torch.where(inside, new, kept)


def moves(found: Tensor, plain: Tensor) -> Tensor:
    """Mean way that captions go when a sequence is put in: unit features `found [..., m, E]` with it, `plain
    [m, E]` without it -> `[..., E]`."""
    return (found - plain).mean(dim=-2)


def pull(move: Tensor, other: Tensor) -> Tensor:
    """How much further captions go in one tower than in the other, along the way that they go in the one, the
    less the more it is the other's way too: `<move - other, move / |move|> (1 - max(0, cos(move, other)))`,
    `[..., E]` twice -> `[...]`.

    2 at most for unit features; 0 where both go the same way, however far: training makes words stronger
    that mean what they meant, a trigger means something new.
    """
    further = ((move - other) * F.normalize(move, dim=-1)).sum(dim=-1)
    return further * (1 - F.cosine_similarity(move, other, dim=-1).clamp_min(0))
