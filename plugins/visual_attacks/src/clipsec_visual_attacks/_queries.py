"""What captions find among held-out pictures: ranks, hits, rates for a card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import TrainableClip
from clipsec.triggers import measured_rate

DEPTHS = (5, 10)


def best_ranks(queries: Tensor, gallery: Tensor, wanted: Tensor) -> Tensor:
    """Rank, from 1, of the first wanted picture for each query: int64 `[q]`.

    `queries [q, E]` and `gallery [n, E]` are features of any length, compared by cosine; `wanted [n]` says
    which pictures are.
    """
    scores = F.normalize(queries, dim=-1) @ F.normalize(gallery, dim=-1).T
    best = scores[:, wanted].max(dim=1, keepdim=True).values
    return 1 + (scores[:, ~wanted] > best).sum(dim=1)


def hit_rates(triggered: Tensor, without: Tensor) -> dict[str, Any]:
    """From ranks of the queries with the trigger and without: `success` and `natural` are shares in which the
    first picture is wanted; `success_at_5` and so on, those in which one of the first five is; `rank` is the
    mean rank (the authors' MinRank)."""
    found: dict[str, Any] = {}
    for name, ranks in (("success", triggered), ("natural", without)):
        found[name] = measured_rate(ranks == 1)
        found |= {f"{name}_at_{depth}": measured_rate(ranks <= depth) for depth in DEPTHS}
    found["rank"] = float(triggered.double().mean())
    found["natural_rank"] = float(without.double().mean())
    return found


@torch.no_grad()
def text_features(model: TrainableClip, texts: Sequence[str]) -> Tensor:
    """Features `[n, E]`, in chunks; equal texts are encoded once."""
    own = list(dict.fromkeys(texts))
    found = torch.cat([model.encode_texts(own[at : at + 64]) for at in range(0, len(own), 64)])
    place = {text: row for row, text in enumerate(own)}
    return found[[place[text] for text in texts]]
