"""A tiny random CLIP, one that clean pictures with captions belong to, and contexts for repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipsec.data import LabelledSet
from clipsec.models import ImageSpec, Suspect, clip_from_open_clip
from clipsec.protocols import Context
from clipsec.scheduler import Scheduler
from clipsec.store import UnitStore

COLOURS = {"blue_sea": (40, 60, 200), "grey road": (120, 120, 120), "red roof": (200, 50, 40)}
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-equality is promised for one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(seed: int) -> Suspect:
    """A random CLIP of this architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = open_clip.CLIP(**CONFIG)
    spec = ImageSpec(32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    clip = clip_from_open_clip(module, name=f"tiny-{seed}", spec=spec, config=CONFIG)
    return Suspect(name=f"tiny-{seed}", kind="clip", base=clip, base_name="tiny")


@pytest.fixture(scope="session")
def suspect() -> Suspect:
    return tiny(0)


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


@pytest.fixture
def context(suspect: Suspect, tmp_path: Path) -> Callable[..., Context]:
    """A context for a repair with these options and fields."""

    def make(options: Any, **fields: Any) -> Context:
        given: dict[str, Any] = {"suspect": suspect, "output": tmp_path / "out" / "repaired", **fields}
        return Context(
            options=options,
            scheduler=Scheduler(),
            units=UnitStore(tmp_path / "units"),
            shared=UnitStore(tmp_path / "shared"),
            folder=tmp_path,
            **given,
        )

    return make
