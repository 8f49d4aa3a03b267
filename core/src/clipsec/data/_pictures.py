"""Reading pictures: what is a picture, the evaluation transform, and digests by content."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.models import ImageSpec

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
MAX_PIXELS = 64 * 2**20
"""A picture that decodes to more than this is refused before it is decoded."""


def find_pictures(folder: Path) -> list[Path]:
    """All picture files below `folder`, sorted by their path relative to it.

    Raises `DataError` when the folder does not exist, or it or one below it may not be read: a part of a pool
    would pass for the whole.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", remedy="Name a folder that holds pictures.")
    files = (Path(place, name) for place, _, names in os.walk(folder, onerror=_unreadable) for name in names)
    found = (path for path in files if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} cannot be read: {error.strerror}",
        remedy="Give yourself the right to read it, or name another folder.",
    ) from error


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def spec_digest(spec: ImageSpec) -> str:
    """Digest of what the transform does to pixels; mean and std are applied later, inside the tower."""
    return f"{spec.resize_mode}/{spec.interpolation}/{spec.size}"


def open_picture(path: Path) -> Image.Image:
    """The decoded picture in RGB, at its own size.

    Raises `DataError` when the file cannot be decoded or is absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"{path} has {picture.width} x {picture.height} pixels",
                        remedy=f"Scale it below {MAX_PIXELS} pixels or leave it out.",
                    )
                return picture.convert("RGB")
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(f"{path} cannot be decoded: {error}", remedy="Replace or remove the file.") from error


def read_picture(path: Path, spec: ImageSpec) -> Tensor:
    """The evaluation transform without normalisation: uint8 `[3, size, size]`.

    As open_clip and CoOp do it: convert to RGB, resize the short side (bicubic by default), centre crop.
    Raises `DataError` when the file cannot be decoded.
    """
    # Imported here: torchvision brings torch's compiler along, a second more for each isolated detector.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    rgb = open_picture(path)
    size = [spec.size, spec.size] if spec.resize_mode == "squash" else [spec.size]
    resized = transforms.resize(rgb, size, InterpolationMode(spec.interpolation))
    cropped = transforms.center_crop(resized, [spec.size, spec.size])
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous()


def read_pictures(paths: Sequence[Path], spec: ImageSpec) -> Tensor:
    """uint8 `[n, 3, size, size]`; an empty list gives an empty tensor."""
    if not paths:
        return torch.empty(0, 3, spec.size, spec.size, dtype=torch.uint8)
    return torch.stack([read_picture(path, spec) for path in paths])


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels -> float32 in [0, 1], what towers take."""
    return pixels.to(torch.float32) / 255.0
