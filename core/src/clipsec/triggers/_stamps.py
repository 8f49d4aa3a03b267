"""Stamping pictures: pure functions, differentiable in the pixels and, where it makes sense, in the trigger.

Pixels are `[n, 3, size, size]` in [0, 1], after resize and crop and before normalisation.
"""

from __future__ import annotations

import hashlib

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor


def add(pixels: Tensor, delta: Tensor) -> Tensor:
    """`clip(x + delta, 0, 1)`, delta `[3, size, size]` in pixel units."""
    return (pixels + delta).clamp(0.0, 1.0)


def blend(pixels: Tensor, pattern: Tensor, ratio: float) -> Tensor:
    """`(1 - ratio) x + ratio p`, pattern `[3, size, size]` in [0, 1]. Source: Chen et al. 2017."""
    return (1.0 - ratio) * pixels + ratio * pattern


def cover(pixels: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """`(1 - m) x + m p`: pattern `[3, size, size]` in [0, 1] where mask `[1 or 3, size, size]` says so.

    Source: Gu et al. 2017 (BadNets), written as Neural Cleanse writes it.
    """
    return (1.0 - mask) * pixels + mask * pattern


def warp(pixels: Tensor, grid: Tensor) -> Tensor:
    """The picture sampled at `grid` `[size, size, 2]` (or one for each picture, `[n, size, size, 2]`).

    Coordinates (x, y) go from -1 to 1, corner to corner; bilinear. Source: Nguyen & Tran 2021 (WaNet).
    """
    fields = grid if grid.ndim == 4 else grid.unsqueeze(0).expand(len(pixels), -1, -1, -1)
    return F.grid_sample(pixels, fields.to(pixels), mode="bilinear", align_corners=True)


@attrs.frozen
class Placement:
    """Where an object goes, in pixels of the frame."""

    top: int
    left: int
    height: int
    width: int


def picture_generator(picture: Tensor, seed: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the picture's pixels (in steps of 1/255) alone.

    What is drawn for a picture is then the same whatever else is in the batch, and can be drawn again
    anywhere.
    """
    steps = (picture.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).numpy().tobytes()
    content = hashlib.blake2b(steps, digest_size=8, key=str(seed).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(content, "big") >> 1)


def placements(
    pixels: Tensor, shape: tuple[int, int], smallest: float, largest: float, seed: int
) -> list[Placement]:
    """Size and place of an object of `shape` (height, width) in each picture, always inside of it.

    Its longer side takes a share of the frame's side that is uniform in [smallest, largest], its place is
    uniform. Both are drawn by `picture_generator`.
    """
    frame, found = pixels.shape[-1], []
    for picture in pixels:
        generator = picture_generator(picture, seed)
        share, across, down = torch.rand(3, generator=generator).tolist()
        side = (smallest + (largest - smallest) * share) * frame
        height, width = (max(1, min(frame, round(side * length / max(shape)))) for length in shape)
        found.append(
            Placement(round(down * (frame - height)), round(across * (frame - width)), height, width)
        )
    return found


def paste(
    pixels: Tensor, pattern: Tensor, mask: Tensor, smallest: float, largest: float, place_seed: float
) -> Tensor:
    """An object (pattern `[3, h, w]`, mask `[1, h, w]`) pasted at a size and place of each picture's own.

    See `placements`.
    """
    cut = torch.cat([mask, pattern * mask]).unsqueeze(0).to(pixels)
    rows = []
    shape = (int(pattern.shape[1]), int(pattern.shape[2]))
    places = placements(pixels, shape, smallest, largest, int(place_seed))
    for picture, at in zip(pixels, places, strict=True):
        # Colours are scaled together with the mask, so that no background bleeds in at the edge.
        scaled = F.interpolate(cut, (at.height, at.width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        margins = (
            at.left,
            pixels.shape[-1] - at.left - at.width,
            at.top,
            pixels.shape[-2] - at.top - at.height,
        )
        placed = F.pad(scaled, margins)
        rows.append((1.0 - placed[:1]) * picture + placed[1:])
    return torch.stack(rows) if rows else pixels
