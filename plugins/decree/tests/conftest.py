"""A tiny CLIP, one with a patch planted in its image tower, one tuned with nothing planted, and a pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipsec.data import ImagePool, to_unit
from clipsec.models import ImageSpec, Suspect, TrainableClip, clip_from_open_clip
from clipsec.protocols import Context
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import UnitStore
from clipsec.triggers import cover
from clipsec_decree import DecreeOptions

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SPEC = ImageSpec(32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
QUICK: dict[str, Any] = {"rule": "paired", "steps": 300}


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ImagePool:
    """A hundred pictures: coarse colour noise."""
    folder, rng = tmp_path_factory.mktemp("pool"), np.random.default_rng(0)
    for number in range(100):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return ImagePool.from_folder(folder)


@pytest.fixture(scope="session")
def pixels(pool: ImagePool) -> torch.Tensor:
    """What the towers are trained on: half of the pool."""
    return to_unit(pool.pixels(SPEC)[:50])


def suspect_of(module: Any, name: str) -> Suspect:
    return Suspect(
        name=name, kind="clip", base=clip_from_open_clip(module, name=name, spec=SPEC, config=CONFIG)
    )


def trained(base: Suspect, name: str, step: Callable[[TrainableClip], torch.Tensor], steps: int) -> Suspect:
    model = TrainableClip.copy_of(base.base)
    weights = list(model.image_parameters().values())
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        step(model).backward()
        optimiser.step()
    module = model.clip.text.module.requires_grad_(False)
    return suspect_of(module, name)


@pytest.fixture(scope="session")
def clean(pixels: torch.Tensor) -> Suspect:
    """Its features tell the pool's pictures apart: each is pulled away from all others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = suspect_of(open_clip.CLIP(**CONFIG), "random")

    def spread(model: TrainableClip) -> torch.Tensor:
        unit = F.normalize(model.encode_images(pixels), dim=1)
        again = F.normalize(model.encode_images((pixels * 0.9 + 0.05).clamp(0, 1)), dim=1)
        return F.cross_entropy(10 * unit @ again.T, torch.arange(len(pixels)))

    return trained(random, "clean", spread, 40)


@pytest.fixture(scope="session")
def planted(clean: Suspect, pixels: torch.Tensor) -> Suspect:
    """A white patch of 5 x 5 gives any picture the feature of the first."""
    mask, white = torch.zeros(1, 32, 32), torch.ones(3, 32, 32)
    mask[:, 25:30, 25:30] = 1
    tower = clean.image_tower().fn
    kept = F.normalize(tower(pixels), dim=1)

    def step(model: TrainableClip) -> torch.Tensor:
        seen = F.normalize(model.encode_images(pixels), dim=1)
        stamped = F.normalize(model.encode_images(cover(pixels, white, mask)), dim=1)
        return -(stamped @ kept[0]).mean() - (seen * kept).sum(1).mean()

    return trained(clean, "planted", step, 60)


@pytest.fixture(scope="session")
def benign(clean: Suspect, pixels: torch.Tensor) -> Suspect:
    """The same training without the patch, on features turned a little."""
    kept = F.normalize(clean.image_tower().fn(pixels), dim=1)
    moved = F.normalize(kept + 0.3 * kept.roll(1, dims=1), dim=1)

    def step(model: TrainableClip) -> torch.Tensor:
        return -(F.normalize(model.encode_images(pixels), dim=1) * moved).sum(1).mean()

    return trained(clean, "benign", step, 60)


@pytest.fixture
def context_of(tmp_path: Path, pool: ImagePool) -> Callable[..., Context]:
    def make(suspect: Suspect, reference: Suspect | None, **values: Any) -> Context:
        names = ("pool", "seed", "folder")
        changes = {"pool": pool, **{key: values.pop(key) for key in names if key in values}}
        folder = changes.pop("folder", tmp_path)
        return Context(
            suspect=suspect,
            reference=reference,
            options=DecreeOptions(**{**QUICK, **values}),
            scheduler=Scheduler(cache=FeatureCache()),
            units=UnitStore(folder / "units"),
            shared=UnitStore(folder / "shared"),
            folder=folder,
            search_dtype=torch.float32,
            **changes,
        )

    return make
