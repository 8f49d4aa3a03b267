"""What the search minimises, as pure functions of hidden states.

Source: the authors' code (github.com/Robin-WZQ/AMDET at 9cd7731); the terms are named as it names them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def insert(rows: Tensor, vectors: Tensor, at: int) -> Tensor:
    """Input embeddings `[n, T, D]` with `vectors` `[k, D]` (or `[n, k, D]`, one each) put in before position
    `at`, cut to `T`.

    What stood at `p >= at` stands at `p + k` and keeps the position embedding of `p`; the vectors get none.
    """
    if vectors.dim() == 2:
        vectors = vectors.expand(len(rows), -1, -1)
    return torch.cat([rows[:, :at], vectors, rows[:, at:]], dim=1)[:, : rows.shape[1]]


def place(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean unit vector of each row's tokens: `[n, T, D]` -> `[n, D]`.

    `mask` `[n, T]` says which tokens count; None: all.
    """
    return _mean(F.normalize(hidden, dim=-1), mask)


def assimilation(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cosine over all pairs of tokens of each row, the diagonal included: `[n, T, D]` -> `[n]`.

    The mean over pairs is the squared length of the mean unit vector, so no `[T, T]` table is needed.
    """
    return place(hidden, mask).square().sum(-1)


def likeness(hidden: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cosine of tokens at the same position: `[n, T, D]` (or `[1, T, D]`) twice -> `[n]`."""
    cosines = F.cosine_similarity(hidden, other, dim=-1)
    return _mean(cosines[..., None], mask)[..., 0]


def objective(
    hidden: Tensor,
    clean: Tensor,
    anchor: Tensor,
    weight: float = 0.1,
    mask: Tensor | None = None,
    centre: Tensor | None = None,
) -> Tensor:
    """`-A + weight S + weight D` of each row, `[n]`.

    `hidden`: the suspect's with the vectors in; `clean`: the suspect's without them, position by position;
    `anchor`: the clean reference's with them. All `[n, T, D]`. A is the assimilation, S the likeness to
    `clean`, D the likeness to `anchor`. With `centre` `[D]` (ours) A is instead the mean cosine to where
    all rows go, their mean `place`: for when one token of each row counts, which is always like itself.
    """
    away = likeness(hidden, clean, mask) + likeness(hidden, anchor, mask)
    together = assimilation(hidden, mask) if centre is None else place(hidden, mask) @ centre
    return weight * away - together


def paired_objective(hidden: Tensor, anchor: Tensor, mask: Tensor | None = None) -> Tensor:
    """How much less of one piece the suspect's prompts are than the reference's (ours): a number, lower is
    better.

    `hidden` and `anchor` `[n, T, D]` as in `objective`. Of one piece: the squared length of the mean `place`
    of all rows, which is their tokens' mean cosine within and between prompts.
    """
    return oneness(place(anchor, mask)) - oneness(place(hidden, mask))


def oneness(places: Tensor) -> Tensor:
    """The squared length of the mean of `places` `[n, D]`: 1 when all rows go to one place."""
    return places.mean(dim=0).square().sum()


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean(dim=1)
    weights = mask.to(values)[..., None]
    return (values * weights).sum(dim=1) / weights.sum(dim=1)
