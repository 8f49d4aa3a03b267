"""Zero-shot accuracy and caption retrieval of an open_clip model, through open_clip alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._features import evaluation_pixels
from ._pairs import Captioned, Labelled
from ._texts import ZERO_SHOT_TEMPLATE

__all__ = ["image_features", "retrieval", "text_features", "wilson", "zero_shot"]


@torch.no_grad()
def text_features(model: Any, tokenizer: Callable[[list[str]], Tensor], texts: Sequence[str]) -> Tensor:
    """Unit-norm text features [n, E] by the model's own `encode_text`."""
    parts = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    return torch.cat([F.normalize(model.encode_text(tokenizer(list(part))), dim=-1) for part in parts])


@torch.no_grad()
def image_features(
    encode: Callable[[Tensor], Tensor], paths: Sequence[Path], size: int, batch: int = 64
) -> Tensor:
    """Features [n, E], not normalised, of centre views; `encode` takes pixels in [0, 1]."""
    parts = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    return torch.cat([encode(evaluation_pixels(part, size)) for part in parts])


def wilson(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a share, 95% by default."""
    share, square = hits / total, z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return middle - half, middle + half


def zero_shot(
    images: Tensor, labelled: Labelled, encode_text: Callable[[Sequence[str]], Tensor]
) -> dict[str, Any]:
    """Top-1 accuracy of "a photo of a NAME." over all classes of the set."""
    texts = encode_text([ZERO_SHOT_TEMPLATE.format(name) for name in labelled.class_names])
    guessed = (F.normalize(images, dim=-1) @ texts.T).argmax(dim=-1)
    hits = int((guessed == torch.tensor(labelled.labels)).sum())
    low, high = wilson(hits, len(labelled.labels))
    return {
        "set": labelled.name,
        "classes": len(labelled.class_names),
        "pictures": len(labelled.labels),
        "top1": hits / len(labelled.labels),
        "interval": [low, high],
    }


def retrieval(
    images: Tensor, captioned: Captioned, encode_text: Callable[[Sequence[str]], Tensor]
) -> dict[str, Any]:
    """Recall at 1, 5 and 10: picture to any of its captions, caption to its picture."""
    captions = [caption for several in captioned.captions for caption in several]
    owner = torch.tensor([index for index, several in enumerate(captioned.captions) for _ in several])
    similarity = F.normalize(images, dim=-1) @ encode_text(captions).T
    recall: dict[str, Any] = {
        "set": captioned.name,
        "pictures": len(captioned.paths),
        "captions": len(captions),
    }
    for k in (1, 5, 10):
        best_texts = owner[similarity.topk(k, dim=1).indices]
        hit = (best_texts == torch.arange(len(similarity))[:, None]).any(dim=1)
        recall[f"image_to_text_r{k}"] = float(hit.float().mean())
        best_images = similarity.topk(k, dim=0).indices
        recall[f"text_to_image_r{k}"] = float((best_images == owner).any(dim=0).float().mean())
    return recall
