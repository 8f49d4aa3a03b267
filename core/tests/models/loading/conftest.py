"""Tiny random models of every kind that is loaded, and the folders a vendor would deliver them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def open_clip_config(**changes: Any) -> dict[str, Any]:
    config = {"embed_dim": 24, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value  # type: ignore[index]
    return config


@pytest.fixture(scope="session")
def config_with() -> Callable[..., dict[str, Any]]:
    """`config_with(quick_gelu=True, text_cfg__width=32)`: a tiny open_clip model_cfg."""
    return open_clip_config


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """A tiny open_clip CLIP."""
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip_config())


@pytest.fixture(scope="session")
def state(model: nn.Module) -> dict[str, Tensor]:
    """Its weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def deliver(tmp_path: Path, state: dict[str, Tensor]) -> Callable[..., Path]:
    """`deliver(name, save=..., config=..., tensors=...)`: an open_clip folder, by default the tiny
    model's."""

    def make(
        name: str = "delivered",
        *,
        config: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
        file: str = "open_clip_model.safetensors",
        save: Callable[[Any, Path], None] = lambda tensors, path: save_file(tensors, path),
        preprocess: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        described = {
            "model_cfg": open_clip_config() if config is None else config,
            "preprocess_cfg": {"mean": MEAN, "std": STD} if preprocess is None else preprocess,
        }
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        save(state if tensors is None else tensors, folder / file)
        return folder

    return make


@pytest.fixture
def base(deliver: Callable[..., Path]) -> Path:
    """The tiny model as an open_clip folder called `base`."""
    return deliver("base")


@pytest.fixture
def learner(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CoCoOp prompt learner's tensors that fit the tiny model."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "ctx": (4, 16),
        "meta_net.linear1.weight": (2, 24),
        "meta_net.linear1.bias": (2,),
        "meta_net.linear2.weight": (16, 2),
        "meta_net.linear2.bias": (16,),
    }
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


@pytest.fixture
def tuned(tmp_path: Path, base: Path, learner: dict[str, Tensor]) -> Callable[..., Path]:
    """`tuned(tensors=..., record=...)`: a folder as CoCoOp's trainer leaves it, with a clipsec.json."""

    def make(
        name: str = "tuned",
        *,
        tensors: dict[str, Tensor] | None = None,
        file: str = "prompt_learner/model.pth.tar-10",
        record: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        checkpoint = {"state_dict": learner if tensors is None else tensors, "epoch": 10, "val_result": 81.5}
        torch.save(checkpoint, folder / file)
        described: dict[str, Any] = {
            "format": "clipsec prompt-tuned delivery",
            "version": 1,
            "method": "CoCoOp",
            "class_names": ["cat", "fire_truck", "palm tree"],
            "base": {"spec": "../base"},
        }
        described |= changes
        (folder / "clipsec.json").write_text(json.dumps(described if record is None else record))
        return folder

    return make


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[[Path], None]:
    """Writes the files of a small transformers tokenizer (word level, below 300 ids) into a folder."""

    def write(folder: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = [
            "<pad>",
            "<unk>",
            "<s>",
            "</s>",
            *["a", "photo", "of", "cat", "dog", ".", "red", "green", "blue"],
        ]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        )
        fast.save_pretrained(folder)

    return write
