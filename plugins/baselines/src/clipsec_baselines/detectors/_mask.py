"""Neural Cleanse's trigger: a mask that blends one pattern into every picture (Wang et al., S&P 2019, eq. 2).

Mask and pattern live in tanh space, as in the authors' code: m = tanh(u) / (2 - 1e-7) + 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7
EVEN = 0.5
"""The proper schedule's start: mask and pattern in the middle, where tanh lets most of the gradient through.
For a class of a delivery on `zoo:mini` (128 px) the first perfect batch came after 14 updates; from a mask of
0.25 after 26, and from 0.1 not within 40."""


def from_tanh(variable: Tensor) -> Tensor:
    """Values in [0, 1] of a tensor in tanh space."""
    return torch.tanh(variable) / (2 - EPSILON) + 0.5


def to_tanh(values: Tensor) -> Tensor:
    """The inverse of `from_tanh`, for values in [0, 1]; finite also at the ends."""
    return torch.atanh((values.double() - 0.5) * (2 - EPSILON)).to(values.dtype)


def blend(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """`(1 - m) x + m p`: images `[n, 3, H, W]` and pattern `[3, H, W]` in [0, 1], mask `[1, H, W]`."""
    return (1 - mask) * images + mask * pattern


class MaskTrigger:
    """Mask and pattern of one class, as variables of the search."""

    def __init__(self, mask: Tensor, pattern: Tensor) -> None:
        self._mask = to_tanh(mask).requires_grad_()
        self._pattern = to_tanh(pattern).requires_grad_()

    @classmethod
    def random(cls, shape: tuple[int, int, int], generator: torch.Generator) -> MaskTrigger:
        """The authors' start: mask and pattern uniform in [0, 1]. `shape` is (3, H, W)."""
        mask = torch.rand(1, *shape[1:], generator=generator)
        return cls(mask, torch.rand(shape, generator=generator))

    @classmethod
    def even(cls, shape: tuple[int, int, int]) -> MaskTrigger:
        """The proper schedule's start: every picture half grey."""
        return cls(torch.full((1, *shape[1:]), EVEN), torch.full(shape, EVEN))

    def variables(self) -> list[Tensor]:
        """What the optimiser changes."""
        return [self._mask, self._pattern]

    def apply(self, images: Tensor) -> Tensor:
        """Stamp images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return blend(images, from_tanh(self._mask), from_tanh(self._pattern))

    def penalty(self) -> Tensor:
        """The mask's L1 norm, a scalar; at most H x W."""
        return from_tanh(self._mask).abs().sum()

    def counts(self) -> tuple[float, ...]:
        """What has to shrink besides the penalty: nothing."""
        return ()

    def tensors(self) -> dict[str, Tensor]:
        """Mask and pattern as they stand."""
        return {
            "mask": from_tanh(self._mask).detach().clamp(0, 1),
            "pattern": from_tanh(self._pattern).detach().clamp(0, 1),
        }

    def restart(self, tensors: dict[str, Tensor]) -> None:
        """Neural Cleanse goes on from where it is."""


MEANING = "mask [1, H, W] and pattern [3, H, W] in pixel units: x' = (1 - mask) x + mask pattern"


def stamp_mask(images: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Stamp with what `MaskTrigger.tensors` gave."""
    return blend(images, tensors["mask"], tensors["pattern"])


def mask_size(tensors: dict[str, Tensor]) -> float:
    """The L1 norm of a mask."""
    return float(tensors["mask"].double().sum())
