"""Frozen image towers that are prepared as modules: CNNs, timm trunks, SigLIP."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipsec.models._attention import repair_attention
from clipsec.models._prepare_conv import Clip, FrozenConv


def prepare_module(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A frozen copy of an image tower, made fast by exact rewrites; the original is not touched.

    Batch norms are folded into the convolutions before them (exact in fp32 to rounding), on CPUs
    convolutions get a fast input gradient (`FrozenConv`), `nn.MultiheadAttention` is repaired, weights are
    cast once. EfficientNet-Lite0 at 128 px, forward and input gradient, pictures a second on a Zen 5 core:
    55 stock, 75 folded and cast to bf16, 290 with `FrozenConv` (170 in fp32).
    """
    ready = copy.deepcopy(module).eval().requires_grad_(False)
    fold_batch_norms(ready)
    if device.type == "cpu":
        _freeze_convolutions(ready)
    repair_attention(ready)
    ready = ready.to(device=device, dtype=dtype)
    return ready.to(memory_format=torch.channels_last) if is_convolutional(ready) else ready


def is_convolutional(module: nn.Module) -> bool:
    """Whether there are convolutions besides a ViT's patch embedding, so that layout and batch matter."""
    return any(
        (isinstance(part, FrozenConv) and part.kernel != part.stride)
        or (isinstance(part, nn.Conv2d) and part.kernel_size != part.stride)
        for part in module.modules()
    )


def fold_batch_norms(module: nn.Module) -> int:
    """Fold each BatchNorm2d that directly follows a Conv2d among its siblings into it; returns how many.

    Siblings are nearly always called in the order in which they were made; where they are not, the tower
    fails the comparison with its stock module and is not used.
    """
    folded = 0
    for parent in list(module.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is None or norm.num_features != conv.out_channels:
                continue
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, FoldedNorm(norm))
            folded += 1
    return folded


class FoldedNorm(nn.Sequential):
    """What is left of a batch norm once folded: nothing, or the activation that timm keeps inside its
    norms."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(*(part for part in norm.children() if not isinstance(part, nn.Identity)))


def _freeze_convolutions(module: nn.Module) -> None:
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for index, (name, conv) in enumerate(children):
            if not FrozenConv.accepts(conv):
                continue
            after = children[index + 1][1] if index + 1 < len(children) else None
            clip = _clip(after)
            if clip is not None:
                setattr(parent, children[index + 1][0], nn.Identity())
            setattr(parent, name, FrozenConv(conv, clip))


def _clip(after: nn.Module | None) -> Clip | None:
    """The bounds of a clipping activation that certainly follows a convolution: the one inside its own
    norm."""
    if not isinstance(after, FoldedNorm) or len(after) != 1:
        return None
    activation = after[0]
    if isinstance(activation, nn.Hardtanh):  # and its subclass ReLU6
        return activation.min_val, activation.max_val
    return (0.0, math.inf) if isinstance(activation, nn.ReLU) else None


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
