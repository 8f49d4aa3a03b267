"""What triggers are made of beside `clipsec.triggers`: squares, jitter, objects that are cut out."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

PUBLISHED_SIDE = 3 / 32
"""BackdoorBench: a square of 3 pixels on a template of 32, scaled to the input."""


def corner_patch(content: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A square `[3, side, side]` in the lower right corner: pattern `[3, size, size]`, mask `[1, size,
    size]`.

    Source: Gu et al. 2017; BackdoorBench puts it there. The square is at most as large as the frame.
    """
    side = content.shape[-1]
    margins = (size - side, 0, size - side, 0)
    return F.pad(content, margins), F.pad(torch.ones(1, side, side), margins)


def jittered(grid: Tensor, generator: torch.Generator) -> Tensor:
    """WaNet's noise mode: the field with U(-1, 1) / size added to it, `[size, size, 2]`."""
    jitter = 2 * torch.rand(grid.shape, generator=generator) - 1
    return (grid + jitter / grid.shape[0]).clamp(-1.0, 1.0)


def cut_out(picture: Tensor, *, tolerance: float = 0.1) -> tuple[Tensor, Tensor] | None:
    """An object in front of a plain background: (pattern `[3, h, w]`, mask `[1, h, w]`), or None.

    The background is what is connected with the border and within `tolerance` (largest difference of a
    channel) of the border's median colour; the object is the largest connected rest, holes filled, cropped to
    its bounding box. None when less than 90% of the border is background, or the object is less than 5% or
    more than 70% of the picture. `picture` is `[3, height, width]` in [0, 1].
    """
    pixels = picture.numpy()
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    colour = np.median(border, axis=1)
    if (np.abs(border - colour[:, None]).max(axis=0) <= tolerance).mean() < 0.9:
        return None
    plain = np.abs(pixels - colour[:, None, None]).max(axis=0) <= tolerance
    regions, _ = ndimage.label(plain)
    outside = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    rest, found = ndimage.label(~np.isin(regions, outside[outside > 0]))
    if not found:
        return None
    largest = 1 + int(np.argmax(ndimage.sum_labels(np.ones_like(rest), rest, range(1, found + 1))))
    mask = ndimage.binary_fill_holes(rest == largest)
    if not 0.05 <= mask.mean() <= 0.7:
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return picture[:, box[0], box[1]].clone(), torch.from_numpy(mask[box]).float().unsqueeze(0)


def round_piece(picture: Tensor) -> tuple[Tensor, Tensor]:
    """The largest ellipse of a picture `[3, height, width]`: the picture, and mask `[1, height, width]`."""
    down, across = (torch.linspace(-1.0, 1.0, length) for length in picture.shape[1:])
    return picture, (down[:, None] ** 2 + across[None, :] ** 2 <= 1.0).float().unsqueeze(0)
