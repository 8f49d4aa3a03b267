"""Views of a training picture: what the frozen image tower sees of it, once, before the text tower is
trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["centre_view", "views_of"]


def centre_view(picture: Image.Image, size: int) -> Image.Image:
    """Short side to `size` (bicubic), centre crop: the same geometry as open_clip's evaluation transform."""
    width, height = picture.size
    scale = size / min(width, height)
    resized = picture.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC
    )
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def _random_view(
    picture: Image.Image, size: int, draw: random.Random, mirror: bool, smallest: float
) -> Image.Image:
    """A random resized crop: `smallest` to 1 of the area, aspect 3/4 to 4/3."""
    width, height = picture.size
    area = width * height * draw.uniform(smallest, 1.0)
    aspect = 2.0 ** draw.uniform(-0.415, 0.415)
    w, h = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
    left, top = draw.uniform(0, width - w), draw.uniform(0, height - h)
    view = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror and draw.random() < 0.5 else view


def views_of(path: Path, count: int, size: int, *, mirror: bool, seed: int) -> Tensor:
    """Return `count` views as uint8 [count, 3, size, size].

    In this order: centre; centre mirrored (or a slight crop where a mirror image means something else); a
    centre view that went through 32 to 64 pixels (the sets of tiny pictures); then random resized crops, the
    last of them tight.
    """
    with Image.open(path) as file:
        picture = file.convert("RGB")
    draw = random.Random(f"{seed}/{path.parent.name}/{path.name}")
    centre = centre_view(picture, size)
    views = [centre]
    if count > 1:
        flipped = centre.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(flipped if mirror else _random_view(picture, size, draw, False, 0.8))
    if count > 2:
        small = draw.choice((32, 40, 48, 64))
        coarse = _random_view(picture, small, draw, mirror, 0.6)
        views.append(coarse.resize((size, size), Image.Resampling.BICUBIC))
    while len(views) < count:
        views.append(_random_view(picture, size, draw, mirror, 0.25 if len(views) == count - 1 else 0.5))
    stacked = np.stack([np.asarray(view) for view in views[:count]])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
