"""Frozen image towers: pixels in [0, 1] -> image features."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clipsec.errors import NotApplicableError, UnsupportedModelError
from clipsec.models._prepare import agree, library_output, tower_key, warn_fallback
from clipsec.models._prepare_cnn import Normalise, prepare_module
from clipsec.models._prepare_vit import encode_pixels, read_vision_weights
from clipsec.models._types import ClipModel, VisualPart
from clipsec.scheduler import Tower


def prepare_image_tower(clip: ClipModel, dtype: torch.dtype, device: torch.device | str) -> Tower:
    """A frozen image tower: pixels in [0, 1] `[n, 3, S, S]` -> features `[n, E]` fp32, not normalised.

    CLIP ViTs of open_clip and transformers become plain weights and functions; CNNs, timm trunks and SigLIP
    become a frozen copy with exact rewrites. Either is compared with the stock module on two pictures in
    fp32, and the stock module is used, with a `PreparationWarning`, when they differ by more than 1e-4 of
    the largest feature. The given model is not changed.

    Raises `NotApplicableError` when the model has no image tower.
    """
    part = image_part(clip)
    device = torch.device(device)
    what = f"image tower of {clip.name}"
    encode = _prepare(part, dtype, device)
    if not _agrees_with_stock(part, encode if dtype == torch.float32 else None):
        warn_fallback(what, "the prepared tower disagrees with the stock module")
        return Tower(
            key=tower_key("stock image", part.digest, part.spec, dtype=torch.float32),
            fn=_stock(part, device),
            label=f"image {clip.name} stock float32",
            device=device,
        )
    return Tower(
        key=tower_key("image", part.digest, part.spec, dtype=dtype),
        fn=encode,
        label=f"image {clip.name} {str(dtype).removeprefix('torch.')}",
        device=device,
        dtype=dtype,
    )


def image_part(clip: ClipModel) -> VisualPart:
    """The model's image tower, or `NotApplicableError`."""
    if clip.visual is None:
        raise NotApplicableError(
            f"{clip.name} has no image tower", remedy="Load a model with both towers, or an image tower."
        )
    return clip.visual


def _prepare(part: VisualPart, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:
        weights = read_vision_weights(part.module).normalising(part.spec).prepared(dtype, device)
    except UnsupportedModelError:
        return _module_tower(part, dtype, device)
    return lambda pixels: encode_pixels(weights, pixels).float()


def _module_tower(part: VisualPart, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    normalise = Normalise(part.spec.mean, part.spec.std).to(device=device, dtype=dtype)
    module = prepare_module(part.module, dtype, device)
    return lambda pixels: stock_features(module, normalise(pixels)).float()


def _stock(part: VisualPart, device: torch.device) -> Callable[[Tensor], Tensor]:
    normalise = Normalise(part.spec.mean, part.spec.std).to(device)
    module = copy.deepcopy(part.module).eval().requires_grad_(False).to(device)
    return lambda pixels: stock_features(module, normalise(pixels))


def stock_features(module: nn.Module, pixels: Tensor) -> Tensor:
    """Whatever a library calls "image features", from its own module: normalised pixels -> `[n, E]`."""
    for method in ("encode_image", "get_image_features"):
        if hasattr(module, method):
            return library_output(getattr(module, method)(pixels))
    return library_output(module(pixels))


@torch.no_grad()
def _agrees_with_stock(part: VisualPart, encode: Callable[[Tensor], Tensor] | None) -> bool:
    """Two seeded noise pictures through the prepared tower in fp32 and through the stock module."""
    size = part.spec.size
    device = next(part.module.parameters()).device
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    normalise = Normalise(part.spec.mean, part.spec.std).to(device)
    stock = stock_features(part.module, normalise(pixels))
    if encode is None:
        encode = _prepare(part, torch.float32, device)
    return agree(encode(pixels), stock)
