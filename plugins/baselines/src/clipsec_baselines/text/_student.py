"""A text tower that can be trained, as a transformers module, and written as a delivery."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError
from clipsec.models import ClipModel, end_positions, is_causal, pad_with_end

TRAINABLE = ("CLIPTextModel", "CLIPTextModelWithProjection", "SiglipModel", "SiglipTextModel")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)


@attrs.define(eq=False)
class Student:
    """A copy of a model's text tower; the model itself is never changed."""

    clip: ClipModel
    module: Any
    """transformers' CLIPTextModel, CLIPTextModelWithProjection, SiglipModel or SiglipTextModel."""

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[n, T]`, padded with the end token where padding is not part of the text."""
        assert self.clip.text is not None
        return pad_with_end(self.clip, self.clip.text.tokenizer(list(texts)))

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states `[n, T, width]` after the final norm, and features `[n, E]`."""
        tower = getattr(self.module, "text_model", None) if self.is_siglip else None
        output = (tower if tower is not None else self.module)(input_ids=ids)
        pooled = getattr(output, "text_embeds", None)
        return output.last_hidden_state, output.pooler_output if pooled is None else pooled

    @torch.no_grad()
    def encode(self, texts: Sequence[str], chunk: int = 64) -> tuple[Tensor, Tensor]:
        """Hidden states and features of texts, in chunks, without a graph."""
        parts = [self(self.ids(texts[start : start + chunk])) for start in range(0, len(texts), chunk)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def embed(self, ids: Tensor) -> Tensor:
        """What enters the first block: ids `[n, T]` -> token plus position embeddings `[n, T, width]`."""
        rows: Tensor = self._embeddings(input_ids=ids)
        return rows

    def states(self, rows: Tensor) -> Tensor:
        """Hidden states `[n, T, width]` after the final norm, from what enters the first block."""
        # transformers' text towers take token ids alone.
        handle = self._embeddings.register_forward_hook(lambda *_: rows)
        try:
            return self(torch.zeros(rows.shape[:2], dtype=torch.int64))[0]
        finally:
            handle.remove()

    @property
    def _embeddings(self) -> nn.Module:
        parts: Iterator[nn.Module] = self.module.modules()
        return next(part for part in parts if type(part).__name__.endswith("TextEmbeddings"))

    @property
    def is_siglip(self) -> bool:
        return type(self.module).__name__ == "SiglipModel"

    def parameters(self) -> list[nn.Parameter]:
        """Those of the text tower, embeddings included, without the projection into the joint space."""
        tower = self.module.text_model if self.is_siglip else self.module
        named = tower.named_parameters()
        return [p for name, p in named if not name.startswith(("text_projection", "head."))]

    def copy(self) -> Student:
        """Another one with the same weights."""
        return Student(self.clip, copy.deepcopy(self.module))

    def save(self, folder: Path, tokenizer_folder: Path | None = None) -> None:
        """Write it as transformers lays it out, with the tokenizer's files if it has some of its own."""
        tensors = {name: tensor.contiguous() for name, tensor in self.module.state_dict().items()}
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = {**self.module.config.to_diff_dict(), "architectures": [type(self.module).__name__]}
        config.pop("_name_or_path", None)
        (folder / "config.json").write_text(
            json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8"
        )
        for name in TOKENIZER_FILES if tokenizer_folder is not None else ():
            source = Path(str(tokenizer_folder)) / name
            if source.is_file():
                shutil.copyfile(source, folder / name)


def text_student(clip: ClipModel) -> Student:
    """A trainable copy of a model's text tower.

    open_clip's CLIP becomes a CLIPTextModelWithProjection with the same weights, checked on two texts. Raises
    `NotApplicableError` or `UnsupportedModelError` for a tower that is neither CLIP's nor SigLIP's.
    """
    causal = is_causal(clip)
    assert clip.text is not None
    stock: Any = clip.text.module
    # A new module draws its weights from the global generator; all of them are replaced.
    with torch.random.fork_rng(devices=[]):
        if clip.text.library == "open_clip":
            if not causal:
                raise _unsupported(clip)
            module = _from_open_clip(stock)
        elif type(stock).__name__ in TRAINABLE:
            module = copy.deepcopy(stock)
        elif type(stock).__name__ == "CLIPModel":
            module = _from_clip_model(stock)
        else:
            raise _unsupported(clip)
    student = Student(clip, module.requires_grad_(False).eval())
    _check(student)
    return student


def _from_clip_model(stock: Any) -> Any:
    from transformers import CLIPTextModelWithProjection

    config = copy.deepcopy(stock.config.text_config)
    config.projection_dim = stock.config.projection_dim  # the text half's own is another, unused number
    module = CLIPTextModelWithProjection(config)
    wanted = module.state_dict()
    module.load_state_dict({name: tensor for name, tensor in stock.state_dict().items() if name in wanted})
    return module


def _from_open_clip(stock: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tower = stock
    blocks = list(tower.transformer.resblocks)
    projection = tower.text_projection
    linear = isinstance(projection, nn.Linear)
    width = tower.token_embedding.weight.shape[1]
    quick = type(blocks[0].mlp.gelu).__name__ == "QuickGELU"
    config = CLIPTextConfig(
        vocab_size=tower.token_embedding.weight.shape[0],
        hidden_size=width,
        intermediate_size=blocks[0].mlp.c_fc.weight.shape[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=tower.positional_embedding.shape[0],
        hidden_act="quick_gelu" if quick else "gelu",
        layer_norm_eps=tower.ln_final.eps,
        projection_dim=width
        if projection is None
        else (projection.out_features if linear else projection.shape[1]),
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    module = CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)
    tensors = {
        "embeddings.token_embedding.weight": tower.token_embedding.weight,
        "embeddings.position_embedding.weight": tower.positional_embedding,
        "final_layer_norm.weight": tower.ln_final.weight,
        "final_layer_norm.bias": tower.ln_final.bias,
    }
    for number, block in enumerate(blocks):
        place = f"encoder.layers.{number}."
        names = {
            "layer_norm1": block.ln_1,
            "layer_norm2": block.ln_2,
            "self_attn.out_proj": block.attn.out_proj,
            "mlp.fc1": block.mlp.c_fc,
            "mlp.fc2": block.mlp.c_proj,
        }
        for name, part in names.items():
            tensors |= {f"{place}{name}.weight": part.weight, f"{place}{name}.bias": part.bias}
        pairs = zip("qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3))
        for letter, weight, bias in pairs:
            tensors[f"{place}self_attn.{letter}_proj.weight"] = weight
            tensors[f"{place}self_attn.{letter}_proj.bias"] = bias
    expected = module.state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in expected) else ""
    renamed = {prefix + name: tensor.detach().clone() for name, tensor in tensors.items()}
    if projection is not None:
        weight = projection.weight if linear else projection.t()
        renamed["text_projection.weight"] = weight.detach().clone().contiguous()
    left = [name for name in expected if name not in renamed and "position_ids" not in name]
    if left:
        raise UnsupportedModelError(
            f"the text tower has no {left[0]}", remedy="Use an open_clip CLIP with its own text tower."
        )
    module.load_state_dict(renamed, strict=False)
    return module


def _check(student: Student) -> None:
    """The copy must give the model's own features: a conversion that is off by a norm would train anyway."""
    from clipsec.models import encode_texts

    texts = ["a photo of a cat.", "the quick brown fox jumps over a lazy dog"]
    ids = student.ids(texts)
    assert int(end_positions(student.clip, ids).min()) > 0
    found, own = student.encode(texts)[1], encode_texts(student.clip, texts)
    if not bool((found - own).abs().max() <= 1e-4 * own.abs().max()):
        raise _unsupported(student.clip)


def _unsupported(clip: ClipModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the text tower of {clip.name} cannot be trained here",
        remedy="Use open_clip's CLIP, or transformers' CLIPModel, SiglipModel or a text half of theirs.",
    )
