"""Tiny text towers of every library, two classes of pictures, and attacks that are done in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from clipsec.data import LabelledSet
from clipsec.models import (
    ClipModel,
    ClipTokenizer,
    ImageSpec,
    Suspect,
    clip_from_open_clip,
    clip_from_transformers,
)
from clipsec.protocols import AttackContext

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "vocab_size": 49408,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
QUICK = {"held_out": 40, "steps": 60, "batch": 8, "learning_rate": 5e-3}
POISON = {**QUICK, "poisoned": 8, "weight": 1.0}


def open_clip_model() -> ClipModel:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 24, "width": 32, "heads": 2, "layers": 2}
    model = open_clip.CLIP(16, vision, text)
    model.token_embedding.weight.data.mul_(20)  # untrained features of all captions are alike without it
    return clip_from_open_clip(model, name="tiny", spec=ImageSpec(32, (0.5,) * 3, (0.5,) * 3))


def transformers_model(kind: str) -> ClipModel:
    torch.manual_seed(0)
    tokenizer = ClipTokenizer(24)
    if kind == "siglip":
        parts = SiglipTextConfig(**TEXT), SiglipVisionConfig(**VISION)
        module: Any = SiglipModel(SiglipConfig(text_config=parts[0], vision_config=parts[1]))
    elif kind == "text":
        module = CLIPTextModel(CLIPTextConfig(**TEXT))
    else:
        module = CLIPModel(CLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=16))
    return clip_from_transformers(module, name="tiny", tokenizer=tokenizer)


MODELS: dict[str, Callable[[], ClipModel]] = {
    "open_clip": open_clip_model,
    "transformers": lambda: transformers_model("clip"),
    "transformers text": lambda: transformers_model("text"),
    "transformers siglip": lambda: transformers_model("siglip"),
}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    folder = tmp_path_factory.mktemp("pictures")
    for value, name in ((40, "dark"), (220, "bright")):
        (folder / name).mkdir()
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 30, (32, 32, 3))
            Image.fromarray((noise + value).clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return LabelledSet.from_folder(folder)


@pytest.fixture(scope="session")
def base() -> Suspect:
    return Suspect(name="tiny", kind="clip", base=open_clip_model())


def poison(plugin: Any, base: Suspect, labelled: LabelledSet, output: Path, **values: Any) -> Path:
    options = plugin.options(**values)
    return plugin().poison(
        AttackContext(base=base, options=options, labelled=labelled, output=output, seed=1)
    )
