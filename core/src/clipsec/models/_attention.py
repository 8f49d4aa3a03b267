"""Scaled dot-product attention for frozen towers, and the repair of `nn.MultiheadAttention`."""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """`q [n, H, Lq, d]`, `k` and `v [n, H, Lk, d]` -> `[n, H, Lq, d]`. `mask` is boolean, true where
    allowed."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # The flash kernel's bf16 backward on CPUs is slower than two plain matrix products at CLIP's lengths.
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


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
