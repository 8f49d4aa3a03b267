"""A tiny random CLIP and a few pictures: enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipsec.data import LabelledSet
from clipsec.models import Suspect

CLASSES = ("blue sea", "green field", "grey road", "red_roof")
COLOURS = ((40, 60, 200), (40, 180, 60), (120, 120, 120), (200, 50, 40))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and test/ of four classes, six and four noisy pictures each."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 4)):
        for name, colour in zip(CLASSES, COLOURS):
            place = folder / part / name.replace(" ", "_")
            place.mkdir(parents=True)
            for i in range(count):
                noisy = np.array(colour) + rng.normal(0, 25, (40, 48, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture
def labelled(pictures: Path) -> LabelledSet:
    return LabelledSet.from_folder(pictures / "train")


@pytest.fixture
def held_out(pictures: Path) -> LabelledSet:
    return LabelledSet.from_folder(pictures / "test")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random CLIP as an open_clip folder, so that deliveries can name it as their base."""
    import json

    import safetensors.torch

    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder = tmp_path_factory.mktemp("tiny")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Suspect:
    from clipsec.models import load_suspect

    suspect = load_suspect(f"local-dir:{base_folder}")
    suspect.base_name = f"local-dir:{base_folder}"
    return suspect
