"""CLIP-Inspector as a reader of the paper would write it: stock open_clip, class by class, no tricks.

fp32, unfrozen weights, every prompt at the full context length for every picture, one class after the other.
It is the yardstick of `all_class_inversion`, so it must stay naive: do not tune it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainCoCoOp(nn.Module):
    """A CoCoOp model over a stock open_clip CLIP: normalised pixels -> logits."""

    def __init__(
        self,
        clip: nn.Module,
        tokens: Tensor,
        ctx: Tensor,
        meta_net: dict[str, Tensor],
        mean: Tensor,
        std: Tensor,
    ) -> None:
        """`tokens [C, context_length]` are the prompts "X X X X name." of all classes."""
        super().__init__()
        self.clip, self.tokens, self.ctx, self.meta = clip, tokens, ctx, meta_net
        self.mean, self.std = mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)

    def text_features(self, ctx: Tensor) -> Tensor:
        """Text features of all classes `[C, E]` for one picture's context `[n_ctx, width]`."""
        clip = self.clip
        embedded = clip.token_embedding(self.tokens)
        n_ctx = len(ctx)
        prompts = torch.cat(
            [embedded[:, :1], ctx.expand(len(embedded), -1, -1), embedded[:, 1 + n_ctx :]], dim=1
        )
        x = clip.transformer(prompts + clip.positional_embedding, attn_mask=clip.attn_mask)
        x = clip.ln_final(x)
        return x[torch.arange(len(x)), self.tokens.argmax(dim=-1)] @ clip.text_projection

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] `[n, 3, H, W]` -> logits `[n, C]`."""
        features = F.normalize(self.clip.encode_image((pixels - self.mean) / self.std), dim=-1)
        hidden = F.relu(F.linear(features, self.meta["linear1.weight"], self.meta["linear1.bias"]))
        shift = F.linear(hidden, self.meta["linear2.weight"], self.meta["linear2.bias"])
        logits = []
        for feature, bias in zip(features, shift, strict=True):
            text = F.normalize(self.text_features(self.ctx + bias), dim=-1)
            logits.append(self.clip.logit_scale.exp() * feature @ text.t())
        return torch.stack(logits)


def margin(logits: Tensor, target: int) -> Tensor:
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return others.max(dim=1).values - logits[:, target]


def invert_class(
    model: nn.Module, pixels: Tensor, target: int, batches: Sequence[Tensor], epsilon: float
) -> tuple[Tensor, float, int, int]:
    """Delta, mean margin, hits and eligible pictures of one class; pixels uint8 `[n, 3, H, W]`."""
    delta = torch.zeros(pixels.shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.1)
    for batch in batches:
        triggered = (pixels[batch].float() / 255 + delta).clamp(0, 1)
        loss = margin(model(triggered), target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        delta.data.clamp_(-epsilon, epsilon)
    with torch.no_grad():
        margins, clean = [], []
        for chunk in pixels.split(32):
            x = chunk.float() / 255
            clean.append(model(x).argmax(dim=1))
            margins.append(margin(model((x + delta).clamp(0, 1)), target))
    found, predicted = torch.cat(margins), torch.cat(clean)
    eligible = predicted != target
    return delta.detach(), float(found.mean()), int((found[eligible] < 0).sum()), int(eligible.sum())
