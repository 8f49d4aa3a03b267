"""A convolution with frozen weights whose input gradient is fast on CPUs."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

Clip: TypeAlias = tuple[float, float]
"""Bounds of a clipping activation: (0, 6) is ReLU6, (0, inf) is ReLU."""


class FrozenConv(nn.Module):
    """`clip(conv(x))` with frozen weights, differentiable with respect to `x`, once.

    What torch does is slow in two places on CPUs. oneDNN has no fast bf16 kernel for the input gradient of
    a strided depthwise convolution: four such layers took 76 % of EfficientNet-Lite0's forward and
    backward. So input gradients are computed as forward convolutions with flipped weights, over a
    zero-stuffed gradient where there is a stride (80 ms -> 4 ms at 32 x 96 x 64 x 64). And the clipping is
    done in place on the convolution's output, which is then the only tensor kept for the backward.

    Also handles TensorFlow's "same" padding (timm's `Conv2dSame`), which is one wider at the end when
    strided: instead of a padded copy of the input, the kernel gets a leading row and column of zeros and
    the padding is even.
    """

    weight: Tensor
    bias: Tensor | None
    shifted: Tensor | None
    flipped: Tensor | None

    def __init__(self, conv: nn.Conv2d, clip: Clip | None) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.kernel, self.stride, self.groups, self.clip = weight.shape[-1], conv.stride[0], conv.groups, clip
        self.same = _is_same(conv)
        self.padding = 0 if isinstance(conv.padding, str) else int(conv.padding[0])
        self.depthwise = conv.groups == conv.in_channels == conv.out_channels
        flipped = None
        if self.depthwise:
            flipped = weight.flip(2, 3)
        elif self.groups == 1 and self.stride == 1:
            flipped = weight.transpose(0, 1).flip(2, 3)
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())
        self.register_buffer("flipped", None if flipped is None else flipped.contiguous())
        shifted = F.pad(weight, (1, 0, 1, 0)) if self.same and self.stride > 1 else None
        self.register_buffer("shifted", shifted)

    @staticmethod
    def accepts(module: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether `module` is a convolution this class can stand for: square, not dilated, zero padding."""
        if not isinstance(module, nn.Conv2d) or not (type(module) is nn.Conv2d or _is_same(module)):
            return False
        square = len(set(module.kernel_size)) == len(set(module.stride)) == 1
        plain = module.padding == "valid" or (
            not isinstance(module.padding, str)
            and module.padding[0] == module.padding[1] < module.kernel_size[0]
        )
        return square and plain and set(module.dilation) == {1} and module.padding_mode == "zeros"

    def forward(self, x: Tensor) -> Tensor:
        """`[n, in, H, W] -> [n, out, H', W']`."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _FrozenConv.apply(x, self)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """The forward, not recorded by autograd: without gradients, or inside the function that records
        itself."""
        before, after = self._pads(x.shape[2]), self._pads(x.shape[3])
        weight, padding = self.weight, (before[0], after[0])
        if self.shifted is not None and all(end == start + 1 for start, end in (before, after)):
            weight, padding = self.shifted, (before[1], after[1])
        elif before[0] != before[1] or after[0] != after[1]:
            x, padding = F.pad(x, (*after, *before)), (0, 0)
        y = F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)
        return y if self.clip is None else F.hardtanh_(y, *self.clip)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the convolution (without the clipping) with respect to an input of `shape`."""
        before, after = self._pads(shape[2]), self._pads(shape[3])
        lead = (self.kernel - 1 - before[0], self.kernel - 1 - after[0])
        if self.flipped is not None and self.stride == 1 and before[0] == before[1] and after[0] == after[1]:
            return F.conv2d(grad, self.flipped, padding=lead, groups=self.groups)
        if self.depthwise:
            assert self.flipped is not None
            return F.conv2d(self._stuffed(grad, shape, lead), self.flipped, groups=self.groups)
        padded = (*shape[:2], shape[2] + sum(before), shape[3] + sum(after))
        full = conv2d_input(padded, self.weight, grad, self.stride, groups=self.groups)
        return full[:, :, before[0] : before[0] + shape[2], after[0] : after[0] + shape[3]]

    def _stuffed(self, grad: Tensor, shape: torch.Size, lead: tuple[int, int]) -> Tensor:
        """The gradient with `stride - 1` zeros between its rows and columns, in a channels-last frame of
        the size that makes the flipped convolution return exactly the input's shape."""
        n, channels, height, width = shape
        rim = self.kernel - 1
        frame = grad.new_zeros(n, height + rim, width + rim, channels).permute(0, 3, 1, 2)
        rows = slice(lead[0], lead[0] + self.stride * grad.shape[2], self.stride)
        columns = slice(lead[1], lead[1] + self.stride * grad.shape[3], self.stride)
        frame[:, :, rows, columns] = grad
        return frame

    def _pads(self, size: int) -> tuple[int, int]:
        """Zeros before and after an axis of length `size`."""
        if not self.same:
            return self.padding, self.padding
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: FrozenConv) -> Tensor:
        y = conv.compute(x)
        ctx.conv, ctx.shape = conv, x.shape
        if conv.clip is not None:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.conv.clip is not None:
            # The output is at a bound exactly where the input was at or beyond it, and there the slope is
            # zero.
            grad = torch.ops.aten.hardtanh_backward(grad, ctx.saved_tensors[0], *ctx.conv.clip)
        return ctx.conv.input_gradient(grad, ctx.shape), None


def _is_same(conv: nn.Module) -> bool:
    return type(conv).__name__ == "Conv2dSame"
