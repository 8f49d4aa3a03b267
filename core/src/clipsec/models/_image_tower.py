"""Frozen image towers: pixels in [0, 1] -> image features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from clipsec.errors import NotApplicableError, UnsupportedModelError
from clipsec.models._attention import FastKernels
from clipsec.models._prepare import agree, library_output, outside_inference, tower_key, warn_fallback
from clipsec.models._prepare_cnn import Normalise, is_convolutional, prepare_module
from clipsec.models._prepare_vit import encode_pixels, read_vision_weights
from clipsec.models._types import ClipModel, VisualPart
from clipsec.scheduler import Tower

Encoder: TypeAlias = Callable[[Tensor], Tensor]

CNN_BATCH_ON_CPU = {torch.float32: 16, torch.bfloat16: 32}
"""Pictures a call. With one thread torch gives fp32 1 x 1 convolutions to oneDNN from 16 pictures on (165 a
second against 118 at 8); above, at 128 px, tensors pass 32 MB and glibc maps them afresh, page by page, at
every call (115 at 32)."""
GRADIENT_COSINE = 0.99


@outside_inference
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
    encode, micro_batch = _prepare(part, dtype, device)
    if not _agrees_with_stock(part):
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
        micro_batch=micro_batch,
    )


def image_part(clip: ClipModel) -> VisualPart:
    """The model's image tower, or `NotApplicableError`."""
    if clip.visual is None:
        raise NotApplicableError(
            f"{clip.name} has no image tower", remedy="Load a model with both towers, or an image tower."
        )
    return clip.visual


def _prepare(part: VisualPart, dtype: torch.dtype, device: torch.device) -> tuple[Encoder, int | None]:
    """The tower, and the batch it is best called with if that is known."""
    try:
        weights = read_vision_weights(part.module).normalising(part.spec).prepared(dtype, device)
    except UnsupportedModelError:
        return _prepare_as_module(part, dtype, device)
    return (lambda pixels: encode_pixels(weights, pixels).float()), None


def _prepare_as_module(
    part: VisualPart, dtype: torch.dtype, device: torch.device
) -> tuple[Encoder, int | None]:
    normalise = Normalise(part.spec.mean, part.spec.std).to(device=device, dtype=dtype)
    module = prepare_module(_image_half(part.module), dtype, device)

    def encode(pixels: Tensor) -> Tensor:
        with FastKernels():
            return stock_features(module, normalise(pixels)).float()

    on_cpu = device.type == "cpu" and is_convolutional(module)
    return encode, CNN_BATCH_ON_CPU.get(dtype) if on_cpu else None


def _image_half(module: nn.Module) -> nn.Module:
    """The vision model alone where that is all that "image features" need (SigLIP), to copy no text tower."""
    half = getattr(module, "vision_model", None)
    return half if isinstance(half, nn.Module) and not hasattr(module, "visual_projection") else module


def _stock(part: VisualPart, device: torch.device) -> Encoder:
    normalise = Normalise(part.spec.mean, part.spec.std).to(device)
    module = copy.deepcopy(part.module).eval().requires_grad_(False).to(device)
    return lambda pixels: stock_features(module, normalise(pixels))


def stock_features(module: nn.Module, pixels: Tensor) -> Tensor:
    """Whatever a library calls "image features", from its own module: normalised pixels -> `[n, E]`."""
    for method in ("encode_image", "get_image_features"):
        if hasattr(module, method):
            return library_output(getattr(module, method)(pixels))
    return library_output(module(pixels))


def _agrees_with_stock(part: VisualPart) -> bool:
    """Two seeded noise pictures, in fp32, where the model lies: equal features to rounding, and input
    gradients that point the same way.

    Gradients of CNNs jump at the kinks of their activations, so rounding may turn single ones by some per
    cent; a wrong formula turns all of them.
    """
    size, home = part.spec.size, next(part.module.parameters()).device
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(home)
    normalise = Normalise(part.spec.mean, part.spec.std).to(home)
    encode, _ = _prepare(part, torch.float32, home)
    prepared, prepared_gradient = _with_gradient(encode, pixels)
    stock, stock_gradient = _with_gradient(lambda x: stock_features(part.module, normalise(x)), pixels)
    cosine = torch.nn.functional.cosine_similarity(prepared_gradient.flatten(1), stock_gradient.flatten(1))
    return agree(prepared, stock) and bool((cosine > GRADIENT_COSINE).all())


def _with_gradient(encode: Encoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    rows = pixels.clone().requires_grad_()
    features = encode(rows)
    weights = torch.linspace(-1, 1, features.shape[1], device=features.device)
    (gradient,) = torch.autograd.grad((features * weights).sum(), rows)
    return features.detach(), gradient
