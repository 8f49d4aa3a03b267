"""The trigger: a white square."""

from __future__ import annotations

import torch

from clipsec.errors import UsageError
from clipsec.triggers import Stamp


def white_patch(size: int, side: float, place: float) -> Stamp:
    """A white square on pictures of `size` pixels; side and place as shares of it, rounded to pixels.

    Raises `UsageError` when it does not fit into the picture.
    """
    length, begin = max(1, round(side * size)), round(place * size)
    if begin + length > size:
        raise UsageError(
            f"a patch of {length} pixels from pixel {begin} on does not fit into {size} pixels",
            remedy="Set side and place so that their sum is at most 1.",
        )
    mask = torch.zeros(1, size, size)
    mask[:, begin : begin + length, begin : begin + length] = 1
    return Stamp("masked", {"pattern": torch.ones(3, size, size), "mask": mask})
