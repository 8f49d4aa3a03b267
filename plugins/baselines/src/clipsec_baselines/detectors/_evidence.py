"""Reconstructed triggers as files: the tensors, and a picture of what they do."""

from __future__ import annotations

import io
import re

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from clipsec.protocols import Context
from clipsec.results import Artifact

PICTURE_SIZE = 256
"""Least height of a trigger picture; smaller triggers are enlarged without smoothing."""


def mask_picture(tensors: dict[str, Tensor]) -> Tensor:
    """Mask and, beside it, what the mask lets through of the pattern: `[3, H, 2 W]` in [0, 1]."""
    mask = tensors["mask"].expand_as(tensors["pattern"])
    return _beside(mask, tensors["mask"] * tensors["pattern"])


def pixels_picture(tensors: dict[str, Tensor]) -> Tensor:
    """The perturbed pixels in white and, beside them, the change on mid grey: `[3, H, 2 W]` in [0, 1]."""
    change = tensors["delta"]
    where = change.ne(0).any(0).float().expand_as(change)
    return _beside(where, (0.5 + change / 2).clamp(0, 1))


def _beside(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], dim=2)


def as_png(picture: Tensor) -> bytes:
    """A PNG of `[3, H, W]` in [0, 1]."""
    values = np.ascontiguousarray((picture * 255).round().byte().permute(1, 2, 0).numpy())
    image = Image.fromarray(values)
    factor = max(1, PICTURE_SIZE // image.height)
    stream = io.BytesIO()
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(
        stream, format="PNG", optimize=True
    )
    return stream.getvalue()


def save_evidence(
    context: Context,
    index: int,
    name: str,
    tensors: dict[str, Tensor],
    picture: Tensor,
    meaning: str,
    seen: str,
) -> tuple[Artifact, ...]:
    """Write tensors and picture of one class into the verdict's folder."""
    stem = f"triggers/{index:04d}-{re.sub(r'[^A-Za-z0-9]+', '-', name)[:40].strip('-').lower()}"
    content = save({key: value.contiguous() for key, value in tensors.items()}, metadata={"class": name})
    return (
        context.save_artifact(f"{stem}.safetensors", "trigger", content, meaning),
        context.save_artifact(f"{stem}.png", "picture", as_png(picture), seen),
    )
