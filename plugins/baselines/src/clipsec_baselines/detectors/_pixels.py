"""Pixel-Backdoor's trigger: what is added and what is taken away, in few pixels (Tao et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from clipsec_baselines.detectors._mask import from_tanh

SMALLEST = 1 / 255
"""Less than one grey level is no change."""


def add_pattern(images: Tensor, added: Tensor, removed: Tensor) -> Tensor:
    """`clip(x + clip(P+) - clip(P-))`: images `[n, 3, H, W]` in [0, 1], both patterns `[3, H, W]`."""
    return clip(images + clip(added) - clip(removed))


def clip(values: Tensor) -> Tensor:
    """Values clipped to [0, 1]; the gradient passes at both ends, as it did in the authors' torch.

    Today's `clamp` stops it there, and everything starts at zero or is reset to it.
    """
    outside = (values < 0) | (values > 1)
    return torch.where(outside, values.detach().clamp(0, 1), values)


def smooth_count(added: Tensor, removed: Tensor) -> Tensor:
    """The authors' differentiable stand-in for the number of pixels, a scalar.

    Over pixels, the largest channel of `tanh(P / 10) / (2 - 1e-7) + 0.5`, for P+ and for P-. A pixel that
    nothing is added to or taken from counts one half for each, so an empty pattern has H x W.
    """
    return from_tanh(added / 10).amax(0).sum() + from_tanh(removed / 10).amax(0).sum()


def without_small(pattern: Tensor) -> Tensor:
    """The pattern in [0, 1], with less than one grey level set to zero."""
    clipped = pattern.clamp(0, 1)
    return torch.where(clipped < SMALLEST, 0.0, clipped)


def count_pixels(added: Tensor, removed: Tensor) -> int:
    """Pixels in which a channel changes; what is added and taken away again is no change."""
    return int((without_small(added) - without_small(removed)).ne(0).any(0).sum())


class PixelTrigger:
    """The two patterns of one class, as variables of the search."""

    def __init__(self, added: Tensor, removed: Tensor) -> None:
        self._added, self._removed = added.clone().requires_grad_(), removed.clone().requires_grad_()

    @classmethod
    def random(cls, shape: tuple[int, int, int], generator: torch.Generator) -> PixelTrigger:
        """The authors' start: both patterns uniform in [0, 1]."""
        return cls(torch.rand(shape, generator=generator), torch.rand(shape, generator=generator))

    @classmethod
    def even(cls, shape: tuple[int, int, int]) -> PixelTrigger:
        """The proper schedule's start: no change at all. The first gradient decides for each value whether it
        is added to or taken from."""
        return cls(torch.zeros(shape), torch.zeros(shape))

    def variables(self) -> list[Tensor]:
        """What the optimiser changes."""
        return [self._added, self._removed]

    def apply(self, images: Tensor) -> Tensor:
        """Stamp images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return add_pattern(images, self._added, self._removed)

    def penalty(self) -> Tensor:
        """The smooth count."""
        return smooth_count(self._added, self._removed)

    def counts(self) -> tuple[float, ...]:
        """What has to shrink besides the penalty: the number of perturbed pixels."""
        with torch.no_grad():
            return (float(count_pixels(self._added, self._removed)),)

    def tensors(self) -> dict[str, Tensor]:
        """Both patterns as they stand, without what is less than a grey level."""
        with torch.no_grad():
            return {"added": without_small(self._added), "removed": without_small(self._removed)}

    def restart(self, tensors: dict[str, Tensor]) -> None:
        """The authors' reset: go on from the kept pattern without its small values."""
        with torch.no_grad():
            self._added.copy_(tensors["added"])
            self._removed.copy_(tensors["removed"])


MEANING = "delta [3, H, W] in pixel units: x' = clip(x + delta, 0, 1)"


def as_delta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `PixelTrigger.tensors` gave as one additive trigger, which does the same."""
    return {"delta": tensors["added"] - tensors["removed"]}


def stamp_delta(images: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Stamp images `[n, 3, H, W]` in [0, 1] with `delta`."""
    return (images + tensors["delta"]).clamp(0, 1)


def delta_size(tensors: dict[str, Tensor]) -> float:
    """The number of perturbed pixels."""
    return float(tensors["delta"].ne(0).any(0).sum())
