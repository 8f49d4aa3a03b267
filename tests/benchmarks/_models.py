"""The models that are timed: real architectures with random weights, which cost what trained ones cost."""

from __future__ import annotations

import logging

import open_clip
import torch
from open_clip.model import CLIP

from clipsec.models import ClipModel, ImageSpec, TextPart, VisualPart

_MINI_VISION = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "image_size": 128}
_MINI_TEXT = {"context_length": 32, "width": 256, "heads": 4, "layers": 4}


def vit_b32() -> tuple[CLIP, ClipModel]:
    """open_clip's ViT-B-32: the stock module and the same as a `ClipModel`."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that the weights are random
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    return model, _wrap(model, "ViT-B-32", 224, 77, 512)


def mini() -> tuple[CLIP, ClipModel]:
    """The architecture of the reference model mini: EfficientNet-Lite0 at 128 px, a small causal text
    tower."""
    torch.manual_seed(0)
    model = CLIP(256, _MINI_VISION, _MINI_TEXT).eval()
    return model, _wrap(model, "mini", 128, 32, 256)


def _wrap(model: CLIP, name: str, size: int, context: int, embed: int) -> ClipModel:
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    width = model.positional_embedding.shape[1]
    return ClipModel(
        name=name,
        architecture=f"open_clip {name}",
        activation="gelu",
        digest=name,
        visual=VisualPart(model.visual, ImageSpec(size, (0.5,) * 3, (0.5,) * 3), embed, "open_clip", name),
        text=TextPart(model, lambda texts: tokenizer(list(texts)), context, width, embed, "open_clip", name),
    )
