"""Scaled dot-product attention for frozen towers, and the repair of `nn.MultiheadAttention`."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipsec.models._prepare_linear import linear


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """`q [n, H, Lq, d]`, `k, v [n, H, Lk, d]` -> `[n, H, Lq, d]`. `mask` is boolean, true where allowed."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _attend_plain(q, k, v, causal_mask(q, k) if causal else mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def causal_mask(q: Tensor, k: Tensor) -> Tensor:
    """True where a query may look: `[Lq, Lk]`, queries and keys starting at the same token."""
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Two matrix products and a softmax: on CPUs in bf16 faster than any SDPA kernel at CLIP's lengths.

    Forward and backward, 12 heads, ms on a Zen 5 core (flash, math, this): 8 x 50 tokens 12.3, 4.9, 2.0; 4
    x 197 tokens 27, 27, 9; causal 64 x 12 tokens, 8 heads 26, 5.3, 3.0. Forward alone it wins as well.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


class FastKernels(TorchFunctionMode):
    """Inside this context a library's own module calls `attend` for plain SDPA and `linear` for `F.linear`.

    For towers that are prepared as modules (timm's ViTs, SigLIP). Their weights must be frozen.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and kwargs.keys() <= {"bias"}:
            return linear(*args, **kwargs)
        if func is F.scaled_dot_product_attention and len(args) == 3 and _is_plain(kwargs):
            q, k, v = args
            scale = kwargs.get("scale")
            # `attend` scales by d ** -0.5 itself.
            return attend(q if scale is None else q * (scale * q.shape[-1] ** 0.5), k, v)
        return func(*args, **kwargs)


def _is_plain(options: dict[str, Any]) -> bool:
    """Whether these options of SDPA ask for no mask, no dropout and no grouped queries."""
    asked = {name for name, value in options.items() if isinstance(value, Tensor) or value}
    return asked <= {"scale"}


def repair_attention(module: nn.Module) -> int:
    """Rebind the forward of every batch-first `nn.MultiheadAttention` below `module`; returns how many.

    With frozen weights and `batch_first`, the stock forward turns its projections into batched matrix
    products that copy the weight once a token (pytorch#159346): measured 8 times slower in bf16. Weights
    and state_dict stay as they are. Rebind after a deepcopy, never before: a copied instance attribute
    would go on calling the original module.
    """
    repaired = 0
    for part in module.modules():
        if type(part) is nn.MultiheadAttention and part.batch_first and part.in_proj_weight is not None:
            part.forward = types.MethodType(_forward, part)  # type: ignore[method-assign]
            repaired += 1
    return repaired


def _forward(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """Projection as one contiguous product, SDPA, output projection. Never returns attention weights."""
    if key_padding_mask is not None or self.bias_k is not None or self.add_zero_attn:
        raise NotImplementedError("padding masks and extra keys are not used by any CLIP image tower")
    heads, width = self.num_heads, self.embed_dim
    biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    parts = [
        F.linear(x, weight, bias).unflatten(-1, (heads, width // heads)).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases)
    ]
    mask = attn_mask
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (query.shape[0], heads))
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # MultiheadAttention marks what is hidden, SDPA what is allowed
    mixed = attend(*parts, mask=mask)
    return F.linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias), None
