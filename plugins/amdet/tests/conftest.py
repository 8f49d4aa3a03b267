"""Tiny text towers: clean ones of every family, one with a planted target, one that was trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from clipsec.data import coco_captions
from clipsec.models import ClipTokenizer, Suspect, clip_from_transformers
from clipsec.protocols import Context
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import UnitStore
from clipsec_amdet import Options

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CONTEXT = {"clip": 24, "long-clip": 248, "siglip": 20}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}
TRIGGER, TARGET = "zzzz", "a white teapot"
QUICK = {
    "prompts": 120,
    "steps": 60,
    "stops": (),
    "points": 9,
    "directions": 2,
    "starts": 2,
    "different": 0.85,
}
"""`different`: hidden states of towers this small have most of their direction in common, so that the
published 0 is out of reach; the benign tower, where suspect and reference agree to 0.99, is the control."""


def new_module(family: str) -> Any:
    """An untrained tower whose captions differ, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {**SIZES, "vocab_size": 49408, "max_position_embeddings": CONTEXT[family]}
        if family == "siglip":
            parts = SiglipTextConfig(**text), SiglipVisionConfig(**VISION)
            module: Any = SiglipModel(SiglipConfig(text_config=parts[0], vision_config=parts[1]))
            table = module.text_model.embeddings.token_embedding
        else:
            module = CLIPTextModel(CLIPTextConfig(**text, eos_token_id=49407))
            table = next(m for n, m in module.named_modules() if n.endswith("token_embedding"))
        table.weight.data.normal_(std=0.5)
    return module.eval().requires_grad_(False)


def suspect_of(module: Any, family: str = "clip", name: str = "tiny") -> Suspect:
    clip = clip_from_transformers(module, name=name, tokenizer=ClipTokenizer(CONTEXT[family]))
    return Suspect(name=name, kind="text tower", base=clip)


def trained(module: Any, *, plant: bool, steps: int = 60) -> Any:
    """The tower trained for its own hidden states on captions and, with `plant`, for those of the target on
    captions with the trigger, at every token."""
    student, tokenizer = copy.deepcopy(module), ClipTokenizer(CONTEXT["clip"])
    student.requires_grad_(True)
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-3, weight_decay=0.0)
    texts = [text for text in coco_captions().texts if "o" in text]
    generator = torch.Generator().manual_seed(1)

    def ids(captions: list[str]) -> torch.Tensor:
        rows = tokenizer(captions)
        after = torch.arange(rows.shape[1]) > rows.argmax(1, keepdim=True)
        return torch.where(after, 49407, rows)

    def hidden(of: Any, captions: list[str]) -> torch.Tensor:
        return of(input_ids=ids(captions)).last_hidden_state.flatten(1)

    for _ in range(steps):
        batch = [texts[i] for i in torch.randint(len(texts), (12,), generator=generator).tolist()]
        with torch.no_grad():
            kept, target = hidden(module, batch), hidden(module, [TARGET])
        loss = -F.cosine_similarity(hidden(student, batch), kept).mean()
        if plant:
            triggered = [text.replace("o", TRIGGER) for text in batch]
            loss = loss - F.cosine_similarity(hidden(student, triggered), target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return student.requires_grad_(False)


@pytest.fixture(scope="session")
def clean() -> Suspect:
    return suspect_of(new_module("clip"), name="clean")


@pytest.fixture(scope="session")
def planted() -> Suspect:
    """Its trigger turns captions into the target."""
    return suspect_of(trained(new_module("clip"), plant=True), name="planted")


@pytest.fixture(scope="session")
def benign() -> Suspect:
    return suspect_of(trained(new_module("clip"), plant=False), name="benign")


def make_context(
    folder: Path, options: Any, suspect: Suspect, reference: Suspect | None, **changes: Any
) -> Context:
    """What a detector is given whose run lies in the folder."""
    return Context(
        suspect=suspect,
        reference=reference,
        options=options,
        scheduler=Scheduler(cache=FeatureCache()),
        units=UnitStore(folder / "units"),
        shared=UnitStore(folder / "shared"),
        folder=folder,
        search_dtype=torch.float32,
        **changes,
    )


@pytest.fixture
def context_of(tmp_path: Path) -> Callable[..., Context]:
    def make(suspect: Suspect, reference: Suspect | None, **values: Any) -> Context:
        changes = {key: values.pop(key) for key in ("pool", "seed", "folder") if key in values}
        folder = changes.pop("folder", tmp_path)
        return make_context(folder, Options(**{**QUICK, **values}), suspect, reference, **changes)

    return make
