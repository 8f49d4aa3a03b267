"""What tests of plugins share: a tiny random CLIP and a few pictures of three classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipsec.data import LabelledSet
from clipsec.models import ImageSpec, Suspect, clip_from_open_clip

COLOURS = {"blue_sea": (40, 60, 200), "grey road": (120, 120, 120), "red roof": (200, 50, 40)}
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    """Eight noisy pictures of each class."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(8):
            noisy = np.array(colour) + rng.normal(0, 25, (32, 32, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return LabelledSet.from_folder(folder)


@pytest.fixture(scope="session")
def base() -> Suspect:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.CLIP(**CONFIG)
    spec = ImageSpec(32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    clip = clip_from_open_clip(module, name="tiny", spec=spec, config=CONFIG)
    return Suspect(name="tiny", kind="clip", base=clip, base_name="tiny")
