"""Which captions to poison with: those whose background is that of the target (ToxicTextCLIP, 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def shortened(caption: str, most: int) -> list[str]:
    """The caption, and what is left of it without any `most` words or fewer; at least one word stays."""
    words = caption.split()
    gone = (
        lost
        for count in range(min(most, len(words) - 1) + 1)
        for lost in combinations(range(len(words)), count)
    )
    return list(dict.fromkeys(" ".join(w for at, w in enumerate(words) if at not in lost) for lost in gone))


def background(texts: Tensor, picture: Tensor, concept: Tensor) -> int:
    """Which of the texts `[v, E]` says most of the picture `[E]` and least of the concept `[E]`: the row with
    the largest cos(text, picture) - cos(text, concept)."""
    return int(_cosines(texts, picture).sub(_cosines(texts, concept)).argmax())


def background_scores(
    captions: Sequence[str],
    picture: Tensor,
    concept: Tensor,
    most: int,
    encode: Callable[[Sequence[str]], Tensor],
) -> Tensor:
    """For each caption the cosine of its background to the concept, `[n]`: how well a caption that is not
    about the concept goes with it.

    The background is the one of `shortened(caption, most)` that `background` chooses. `encode` gives text
    features; `picture` and `concept` are features `[E]` of any length.
    """
    found = []
    for caption in captions:
        texts = encode(shortened(caption, most))
        found.append(_cosines(texts, concept)[background(texts, picture, concept)])
    return torch.stack(found)


def _cosines(rows: Tensor, one: Tensor) -> Tensor:
    return F.cosine_similarity(rows, one[None], dim=-1)
