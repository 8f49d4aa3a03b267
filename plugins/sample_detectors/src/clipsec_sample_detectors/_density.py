"""Local density in CLIP space, as pure functions (Huang et al., ICLR 2025).

The points of a batch of n pairs are its n picture features and, in pair mode, its n caption features behind
them. What is scored are the pictures. Neighbours are exact: neither a point itself nor another point of its
own pair or picture is a neighbour of it, also where a neighbour's own distances are looked up.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

STATISTICS = ("k-dist", "slof", "lid", "dao")
"""Higher is more suspicious, for each."""
_LOG_FLOOR = 1e-4
"""Published: added to each ratio of distances before its logarithm."""
_SAME = 1e-12
"""Squared distances below this share of the squared norms are 0: the features are equal up to rounding."""
_COPIES = 1e-3
"""Share of the median k-distance that no k-distance is taken to be below, so that a point with more than k
copies does not divide by zero."""


@attrs.frozen(eq=False)
class Neighbourhood:
    """The k nearest neighbours of every point of a batch, the nearest first."""

    distances: Tensor
    """float64 `[m, k]`; m is n, or 2 n in pair mode."""
    rows: Tensor
    """int64 `[m, k]`: which points they are."""
    scored: int
    """n: the first points are the pictures."""

    def nearest(self, k: int) -> Neighbourhood:
        """The same with fewer neighbours."""
        return attrs.evolve(self, distances=self.distances[:, :k], rows=self.rows[:, :k])


def neighbourhood(
    pictures: Tensor, captions: Tensor | None, k: int, same: Tensor | None = None
) -> Neighbourhood:
    """Exact neighbours among features `[n, E]` that are not normalised; with captions, pair mode.

    Pairs with equal numbers in `same [n]` are of one picture, and no neighbours of each other. Euclidean, in
    float64. k is cut to what every point has. Raises `ValueError` where a point would have none.
    """
    n = len(pictures)
    kinds = torch.arange(n) if same is None else same
    if len(kinds.unique()) < 2:
        raise ValueError("density needs pairs of two pictures or more")
    points = pictures.double() if captions is None else torch.cat([pictures, captions]).double()
    norms = points.square().sum(dim=1)
    scale = norms[:, None] + norms
    squared = scale - 2 * points @ points.T
    squared = torch.where(squared < _SAME * scale, torch.zeros_like(squared), squared)
    kinds = kinds.repeat(len(points) // n)
    own = kinds[:, None] == kinds
    squared[own] = torch.inf
    most = len(points) - int(own.sum(dim=1).max())
    found = torch.topk(squared, min(k, most), dim=1, largest=False, sorted=True)
    return Neighbourhood(found.values.sqrt(), found.indices, n)


def k_distance(near: Neighbourhood) -> Tensor:
    """`d_k(i)`: the distance of the k-th neighbour, `[n]`."""
    return near.distances[: near.scored, -1]


def slof(near: Neighbourhood) -> Tensor:
    """Simplified local outlier factor, `mean_o d_k(i) / d_k(o)` over the neighbours o, `[n]`."""
    reach = _reach(near)
    return (reach[: near.scored, None] / reach[near.rows[: near.scored]]).mean(dim=1)


def lid(near: Neighbourhood) -> Tensor:
    """Local intrinsic dimension, `-k / sum_{j <= k} log(d_j / d_k + 1e-4)`, `[n]`."""
    return _dimension(near)[: near.scored]


def dao(near: Neighbourhood) -> Tensor:
    """Dimension-aware outlier factor, `mean_o LID(o) log(d_k(i) / d_k(o))` over the neighbours o, `[n]`."""
    reach, rows = _reach(near).log(), near.rows[: near.scored]
    return (_dimension(near)[rows] * (reach[: near.scored, None] - reach[rows])).mean(dim=1)


def mismatch(pictures: Tensor, captions: Tensor) -> Tensor:
    """The negated cosine of each picture with its caption, `[n]` (CLIPScore, the other way round)."""
    return -torch.cosine_similarity(pictures.double(), captions.double(), dim=1)


def density_scores(
    pictures: Tensor, captions: Tensor | None, k: int, lid_k: int, same: Tensor | None = None
) -> dict[str, Tensor]:
    """All of `STATISTICS` of one batch of features, `[n]` each. LID takes `lid_k` neighbours, also where DAO
    takes k for its dimensions. `same` as for `neighbourhood`."""
    wide = neighbourhood(pictures, captions, max(k, lid_k), same)
    near = wide.nearest(k)
    found = (k_distance(near), slof(near), lid(wide.nearest(lid_k)), dao(near))
    return dict(zip(STATISTICS, found, strict=True))


def batches(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """All of n samples, shuffled, in as few batches of at most `size` as there can be; these differ in length
    by one at most, for density in a small rest would not compare."""
    return list(torch.randperm(n, generator=generator).tensor_split(max(1, -(-n // size))))


def _reach(near: Neighbourhood) -> Tensor:
    """`d_k` of every point, kept away from zero."""
    reach = near.distances[:, -1]
    positive = reach[reach > 0]
    return reach.clamp(min=_COPIES * float(positive.median())) if len(positive) else torch.ones_like(reach)


def _dimension(near: Neighbourhood) -> Tensor:
    farthest = near.distances[:, -1:]
    # All neighbours at the same place are no neighbours at different distances: ratio 1.
    ratios = torch.where(farthest > 0, near.distances / farthest.clamp(min=torch.finfo(torch.double).tiny), 1)
    k = ratios.shape[1]
    # Equal distances make the sum positive by the floor's doing; the dimension is then as large as can be.
    return -k / (ratios + _LOG_FLOOR).log().sum(dim=1).clamp(max=-k * _LOG_FLOOR)
