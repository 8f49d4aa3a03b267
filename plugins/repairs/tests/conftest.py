"""A tiny random CLIP and contexts for repairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clipsec.models import ImageSpec, Suspect, clip_from_open_clip
from clipsec.protocols import Context
from clipsec.scheduler import Scheduler
from clipsec.store import UnitStore

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


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
