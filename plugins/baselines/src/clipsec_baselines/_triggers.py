"""Triggers as pure functions on pixels in [0, 1], after resize and crop, before normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ball(epsilon: float, std: Sequence[float], size: int) -> Tensor:
    """BadCLIP's bound for a trigger in normalised units, `epsilon / std_c`: float32 `[3, size, size]`.

    `epsilon` is in pixel units (0 to 1). Source: Bai et al., CVPR 2024, repository, Trigger.clamp.
    """
    return (epsilon / torch.tensor(list(std), dtype=torch.float32)).view(3, 1, 1).expand(3, size, size)


def project_to_ball(trigger: Tensor, epsilon: float, std: Sequence[float]) -> Tensor:
    """The nearest trigger (normalised units, `[3, size, size]`) inside the ball."""
    bound = ball(epsilon, std, trigger.shape[-1]).to(trigger)
    return torch.maximum(torch.minimum(trigger, bound), -bound)


def apply_badclip_trigger(pixels: Tensor, trigger: Tensor, std: Sequence[float]) -> Tensor:
    """Add a trigger given in normalised units: `[n, 3, size, size]` in [0, 1] -> the same.

    BadCLIP adds to the normalised picture and clamps to what [0, 1] becomes there. Undoing the normalisation,
    that is `clip(x + trigger * std, 0, 1)`, whatever the mean. Differentiable in both arguments.
    """
    scale = torch.tensor(list(std), dtype=trigger.dtype, device=trigger.device).view(3, 1, 1)
    return (pixels + trigger * scale).clamp(0.0, 1.0)


def blend(pixels: Tensor, pattern: Tensor, ratio: float) -> Tensor:
    """`(1 - ratio) x + ratio p`: `[n, 3, size, size]` in [0, 1] -> the same. Source: Chen et al. 2017."""
    return (1.0 - ratio) * pixels + ratio * pattern


def noise_pattern(size: int, generator: torch.Generator, *, grain: int = 1, binary: bool = False) -> Tensor:
    """A fixed pattern of independent noise, float32 `[3, size, size]` in [0, 1].

    `grain` is the side of a square of equal pixels; values are uniform, or only 0 and 1 with `binary`.
    CLIP-Inspector's Blended triggers have a mean SSIM of 0.506 with the clean picture; at 224 px uniform
    noise at a ratio of 0.2 gave 0.54 in simulation (Gaussian noise 0.62, a natural picture 0.88).
    """
    cells = math.ceil(size / grain)
    drawn = torch.rand(3, cells, cells, generator=generator)
    if binary:
        drawn = (drawn > 0.5).float()
    return drawn.repeat_interleave(grain, 1).repeat_interleave(grain, 2)[:, :size, :size].contiguous()
