"""Small untrained CLIPs and a few pictures: what hybrids, encodes and the runner do needs no training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from clipsec.data import LabelledSet
from clipsec.models import ImageSpec, Suspect, clip_from_open_clip

NAMES = ("cat", "dog", "ship")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 4},
}
SPEC = ImageSpec(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _module(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def modules() -> tuple[nn.Module, nn.Module]:
    """Two different models of one architecture."""
    return _module(0), _module(1)


@pytest.fixture
def suspect_of() -> Callable[[nn.Module], Suspect]:
    def make(module: nn.Module, name: str = "tiny") -> Suspect:
        clip = clip_from_open_clip(copy.deepcopy(module), name=name, spec=SPEC)
        return Suspect(name=name, kind="clip", base=clip, class_names=NAMES)

    return make


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    """Eight noisy pictures of each class."""
    folder: Path = tmp_path_factory.mktemp("pictures") / "test"
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 90, (32, 32, 3))
            pixels[..., label] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return LabelledSet.from_folder(folder)
