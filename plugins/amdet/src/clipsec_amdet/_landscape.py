"""How smooth the loss is around a found vector: the paper's filter for natural features, as pure functions.

A backdoor's target lies in a smooth bowl; vectors that collapse a clean tower lie among trenches and cliffs.
Source: abstract of arXiv 2512.00343 and the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-6
"""An eigenvalue counts as positive above this. The code's number; the loss must be right to less than it."""


def search_directions(gradient: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit directions `[k, D]`: down the gradient, and `noise` made orthogonal to it."""
    down = -gradient / gradient.norm().clamp_min(1e-12)
    across = noise - (noise * down).sum() * down
    return down, across / across.norm().clamp_min(1e-12)


def grid_points(vector: Tensor, down: Tensor, across: Tensor, reach: float, points: int) -> Tensor:
    """`vector + a down + b across` for a, b in `points` steps from -reach to reach: `[points^2, k, D]`, b
    running faster."""
    steps = torch.linspace(-reach, reach, points, dtype=vector.dtype, device=vector.device)
    a, b = torch.meshgrid(steps, steps, indexing="ij")
    return vector + a.reshape(-1, 1, 1) * down + b.reshape(-1, 1, 1) * across


def hessian_eigenvalues(surface: Tensor) -> Tensor:
    """Eigenvalues of the second differences at each inner point of a surface `[p, p]`: `[(p-2)^2, 2]`,
    float64, the smaller first.

    Unit spacing: the differences are not divided by the step's square, as in the authors' code.
    """
    z = surface.double()
    centre = z[1:-1, 1:-1]
    xx = z[2:, 1:-1] - 2 * centre + z[:-2, 1:-1]
    yy = z[1:-1, 2:] - 2 * centre + z[1:-1, :-2]
    xy = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / 4
    middle, radius = (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square()).sqrt()
    return torch.stack([middle - radius, middle + radius], dim=-1).flatten(0, 1)


def convex_share(surface: Tensor) -> float:
    """Share of the eigenvalues above `FLAT`; points whose second differences are all exactly zero are left
    out. 0 when none is left."""
    eigenvalues = hessian_eigenvalues(surface)
    counted = eigenvalues[(eigenvalues != 0).any(dim=1)]
    return float((counted > FLAT).double().mean()) if len(counted) else 0.0
