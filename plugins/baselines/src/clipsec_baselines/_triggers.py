"""BadCLIP's trigger in its own units, and steps of sparse triggers: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipsec.triggers import add


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
    return add(pixels, in_pixel_units(trigger, std))


def in_pixel_units(trigger: Tensor, std: Sequence[float]) -> Tensor:
    """`trigger * std`, `[3, size, size]`."""
    return trigger * torch.tensor(list(std), dtype=trigger.dtype, device=trigger.device).view(3, 1, 1)


def sparse_mask(gradients: Tensor, pixels: int) -> Tensor:
    """SIBA's choice of `pixels` places: those whose absolute gradient, summed over channels and averaged over
    the batch, is largest. `gradients [n, 3, size, size]` -> float32 `[1, size, size]` of 0 and 1.

    Source: Gao et al., TIFS 2024, and their repository.
    """
    size = gradients.shape[-1]
    weight = gradients.abs().sum(dim=1).mean(dim=0).flatten()
    mask = torch.zeros(size * size, device=gradients.device)
    mask[weight.topk(min(pixels, size * size)).indices] = 1.0
    return mask.view(1, size, size)


def sparse_step(delta: Tensor, gradient: Tensor, mask: Tensor, epsilon: float, step: float) -> Tensor:
    """SIBA's update: against the gradient's sign by `step * epsilon`, back into [-epsilon, epsilon], zero
    outside of the mask. All in pixel units; `delta`, `gradient` `[3, size, size]`."""
    return (delta - step * epsilon * gradient.sign()).clamp(-epsilon, epsilon) * mask
