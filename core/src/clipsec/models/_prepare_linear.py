"""The matrix product that nearly all of a transformer's time goes into, with frozen weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_FEW_ROWS = 4
"""Below this oneDNN's set-up costs more than its faster kernel gains (768 -> 3072, measured from 1 row
on)."""


@cache
def prefers_onednn() -> bool:
    """Whether fp32 products should go to oneDNN rather than to MKL, torch's default on x86.

    MKL uses its slower kernels on processors that are not Intel's: on a Zen 5 core, 400 x 768 x 3072 ran at
    102 GFLOP/s through `F.linear` and at 222 through oneDNN, same numbers to rounding. A fixed choice by
    vendor, never by timing, so that a machine always computes the same.
    """
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "AMD" in str(capabilities.get("cpu_name", ""))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, differentiable with respect to `x` only: `weight` and `bias` are frozen."""
    on_cpu = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if on_cpu and x.numel() >= _FEW_ROWS * x.shape[-1] and prefers_onednn():
        return _OneDnnLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _product(grad, ctx.weight.t(), None), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
