"""Token embeddings of words: what a prompt learner's context vectors start from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError
from clipsec.models._text_tower import text_part, text_weights
from clipsec.models._types import ClipModel


@torch.no_grad()
def embed_words(clip: ClipModel, words: str) -> Tensor:
    """Token embeddings of `words` without positions, start and end tokens: fp32 `[tokens, width]`, a copy.

    Raises `UnsupportedModelError` when the text tower has no single table of token embeddings.
    """
    part = text_part(clip)
    weights = text_weights(clip)
    ids = part.tokenizer([words])
    if weights is not None:
        end = int(weights.end_positions(ids)[0])
        return weights.embed(ids[0, 1:end]).float().clone()
    tables = [
        module
        for name, module in part.module.named_modules()
        if name.endswith("token_embedding") and isinstance(module, nn.Embedding)
    ]
    if len(tables) != 1:
        raise UnsupportedModelError(
            f"the text tower of {clip.name} has no single token embedding table",
            remedy="Prompt learners need a CLIP text tower as their base.",
        )
    end = int(ids[0].argmax())
    return tables[0](ids[0, 1:end].to(tables[0].weight.device)).float().cpu().clone()
