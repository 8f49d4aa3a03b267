"""The triggers: a white square, a checkerboard at one place or anywhere, a given pattern in the middle."""

from __future__ import annotations

import torch
from torch import Tensor

from clipsec.errors import UsageError
from clipsec.triggers import Stamp, checkerboard


def white_patch(size: int, side: float, place: float) -> Stamp:
    """A white square on pictures of `size` pixels; side and place as shares of it, rounded to pixels.

    Raises `UsageError` when it does not fit into the picture.
    """
    length = max(1, round(side * size))
    return _at_one_place(size, torch.ones(3, length, length), place)


def checker_patch(size: int, side: float, place: float | None, seed: int) -> Stamp:
    """A black and white checkerboard on pictures of `size` pixels; side and place as shares of it.

    Without a place it lies anywhere, drawn for each picture by the seed and the picture's content. Raises
    `UsageError` when it does not fit into the picture.
    """
    length = max(1, round(side * size))
    pattern = checkerboard(length)
    if place is not None:
        return _at_one_place(size, pattern, place)
    share = length / size
    values = {"smallest": share, "largest": share, "place_seed": float(seed)}
    return Stamp("paste", {"pattern": pattern, "mask": torch.ones(1, length, length)}, values)


def middle_patch(size: int, pattern: Tensor) -> Stamp:
    """A pattern `[3, side, side]` in [0, 1] in the middle of pictures of `size` pixels, rounded to steps of
    1/255."""
    begin = (size - pattern.shape[-1]) // 2
    return _at_one_place(size, (255 * pattern).round() / 255, begin / size)


def _at_one_place(size: int, pattern: Tensor, place: float) -> Stamp:
    length, begin = pattern.shape[-1], round(place * size)
    if begin + length > size:
        raise UsageError(
            f"a patch of {length} pixels from pixel {begin} on does not fit into {size} pixels",
            remedy="Set side and place so that their sum is at most 1.",
        )
    frame, mask = torch.ones(3, size, size), torch.zeros(1, size, size)
    inside = (slice(None), slice(begin, begin + length), slice(begin, begin + length))
    frame[inside], mask[inside] = pattern, 1
    return Stamp("masked", {"pattern": frame, "mask": mask})
