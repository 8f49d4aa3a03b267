"""Measuring a reference model, loaded from its open_clip folder like any other, on every held-out set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._evaluate import image_features, retrieval, text_features, zero_shot
from ._pairs import captioned_sets, labelled_sets

__all__ = ["load_folder", "measure"]


def load_folder(folder: Path) -> tuple[Any, Any]:
    """The open_clip model of a folder, in eval mode, and its tokenizer."""
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.no_grad()
def measure(folder: Path, data: Path) -> dict[str, Any]:
    """Zero-shot accuracy on the test splits and caption retrieval, all in fp32."""
    model, tokenizer = load_folder(folder)
    visual = model.visual
    mean = torch.tensor(visual.preprocess_cfg["mean"]).view(3, 1, 1)
    std = torch.tensor(visual.preprocess_cfg["std"]).view(3, 1, 1)
    size = visual.image_size[0] if isinstance(visual.image_size, (tuple, list)) else int(visual.image_size)

    def encode(pixels: Tensor) -> Tensor:
        features: Tensor = model.encode_image((pixels - mean) / std)
        return features

    def encode_text(texts: Sequence[str]) -> Tensor:
        return text_features(model, tokenizer, texts)

    return {
        "zero_shot": [
            zero_shot(image_features(encode, labelled.paths, size), labelled, encode_text)
            for labelled in labelled_sets(data)
        ],
        "retrieval": [
            retrieval(image_features(encode, captioned.paths, size), captioned, encode_text)
            for captioned in captioned_sets(data)
        ],
        "logit_scale": math.exp(float(model.logit_scale)),
    }
