"""What the tokens of a text tower attend to, for people to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from clipsec.models._attention import causal_mask
from clipsec.models._embedding_tower import embedding_weights
from clipsec.models._prepare_blocks import Block, run_block
from clipsec.models._types import ClipModel


@torch.no_grad()
def last_attention(clip: ClipModel, rows: Tensor) -> Tensor:
    """Attention of a text tower's last block, the mean over its heads, in fp32 on the CPU.

    Input embeddings `[n, L, width]`, positions included (see `embed_ids`) -> `[n, L, L]`: how much the token
    of each row looks at the token of each column; rows sum to 1. A bidirectional tower needs its full context
    length. Raises `NotApplicableError` like `prepare_embedding_tower`.
    """
    weights = embedding_weights(clip)
    device = weights.token_embedding.device
    ready = weights.prepared(torch.float32, device)
    x = rows.to(device, torch.float32)
    for block in ready.blocks[:-1]:
        x = run_block(block, x, ready.heads, ready.activation, causal=ready.causal)
    return _attention(ready.blocks[-1], x, ready.heads, causal=ready.causal).mean(dim=1).cpu()


def _attention(block: Block, x: Tensor, heads: int, *, causal: bool) -> Tensor:
    """`x [n, L, D]` -> the weights of each head `[n, heads, L, L]`."""
    n, length, width = x.shape
    qkv = block.qkv(block.ln1(x)).view(n, length, 3, heads, width // heads)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores.masked_fill(~causal_mask(q, k), float("-inf"))
    return scores.softmax(dim=-1)
