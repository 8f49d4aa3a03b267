"""What triggers are made of, as pure functions: noise, squares, warping fields, objects that are cut out."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

PUBLISHED_SIDE = 3 / 32
"""BackdoorBench: a square of 3 pixels on a template of 32, scaled to the input."""


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


def corner_patch(content: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A square `[3, side, side]` in the lower right corner: pattern `[3, size, size]`, mask `[1, size,
    size]`.

    Source: Gu et al. 2017; BackdoorBench puts it there. The square is at most as large as the frame.
    """
    side = content.shape[-1]
    margins = (size - side, 0, size - side, 0)
    return F.pad(content, margins), F.pad(torch.ones(1, side, side), margins)


def checkerboard(side: int) -> Tensor:
    """Black and white squares of one pixel each for a side below 8, else of an eighth of the side: `[3, side,
    side]`."""
    cell = torch.arange(side) // max(1, side // 8)
    return ((cell[:, None] + cell[None, :]) % 2).float().expand(3, side, side).contiguous()


def identity_grid(size: int) -> Tensor:
    """The field that changes nothing: `[size, size, 2]`, (x, y) from -1 to 1, corner to corner."""
    line = torch.linspace(-1.0, 1.0, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def warp_offsets(size: int, cells: int, generator: torch.Generator) -> Tensor:
    """WaNet's smooth random field `[size, size, 2]`, mean absolute value near 1.

    U(-1, 1) of `[2, cells, cells]`, divided by its mean absolute value, bicubic to the frame. Source: Nguyen
    & Tran 2021 and their repository.
    """
    drawn = 2 * torch.rand(1, 2, cells, cells, generator=generator) - 1
    drawn = drawn / drawn.abs().mean()
    smooth = F.interpolate(drawn, size, mode="bicubic", align_corners=True)
    return smooth[0].permute(1, 2, 0).contiguous()


def warp_grid(offsets: Tensor, strength: float, *, rescale: float = 1.0) -> Tensor:
    """`clip((identity + strength * offsets / size) * rescale, -1, 1)`: `[size, size, 2]`. Source: WaNet."""
    size = offsets.shape[0]
    return ((identity_grid(size) + strength * offsets / size) * rescale).clamp(-1.0, 1.0)


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
