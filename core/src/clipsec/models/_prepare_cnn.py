"""Frozen image towers that are prepared as modules: CNNs, timm trunks, SigLIP."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipsec.models._attention import repair_attention


def prepare_module(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A frozen copy of an image tower, made fast by exact rewrites; the original is not touched.

    Batch norms are folded into the convolutions before them (exact in fp32 to rounding),
    `nn.MultiheadAttention` is repaired, CNN weights lie channels-last, weights are cast once.
    """
    ready = copy.deepcopy(module).eval().requires_grad_(False)
    fold_batch_norms(ready)
    repair_attention(ready)
    ready = ready.to(device=device, dtype=dtype)
    if any(isinstance(part, nn.Conv2d) and part.kernel_size != part.stride for part in ready.modules()):
        ready = ready.to(memory_format=torch.channels_last)
    return ready


def fold_batch_norms(module: nn.Module) -> int:
    """Fold each BatchNorm2d that directly follows a Conv2d among its siblings into it; returns how many."""
    folded = 0
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is None or norm.num_features != conv.out_channels:
                continue
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, _after_norm(norm))
            folded += 1
    return folded


def _after_norm(norm: nn.Module) -> nn.Module:
    """What is left of a batch norm once folded: nothing, or timm's drop and activation."""
    rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return nn.Sequential(*rest) if len(rest) != 1 else rest[0]


class Normalise(nn.Module):
    """`(x - mean) / std` a channel, for towers whose stem pads: there it cannot be folded into the weights
    exactly, since the padding is zero after normalising, not before."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        scale = 1 / torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        shift = -torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1) * scale
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale + self.shift
