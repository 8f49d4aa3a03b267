"""What a loaded model is, whatever library it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn


@attrs.frozen
class ImageSpec:
    """The evaluation transform of an image tower: resize the short side, centre crop, normalise."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """`shortest` (resize short side, centre crop) or `squash` (resize to a square, as SigLIP does)."""


@attrs.frozen(eq=False)
class VisualPart:
    """An image tower as its library built it, in fp32."""

    module: nn.Module
    """Normalised pixels `[n, 3, size, size]` -> features `[n, embed_dim]`, not L2-normalised."""
    spec: ImageSpec
    embed_dim: int
    library: str
    """`open_clip` or `transformers`; decides how the tower is prepared."""
    digest: str
    """Digest of this tower's weights and of what they do not show (activation, heads, normalisation):
    prompt-tuned models that share a base share it."""


class Tokenizer(Protocol):
    """Texts -> ids `[n, context_length]` int64, padded."""

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


@attrs.frozen(eq=False)
class TextPart:
    """A text tower as its library built it, in fp32."""

    module: nn.Module
    """The stock module that owns the text weights (for open_clip's classic CLIP, the whole model)."""
    tokenizer: Tokenizer
    context_length: int
    width: int
    embed_dim: int
    library: str
    digest: str


@attrs.frozen(eq=False)
class ClipModel:
    """A dual encoder (or one half of it) in memory, on the CPU, in fp32, in eval mode, frozen."""

    name: str
    architecture: str
    """e.g. `open_clip ViT-B-32`, `transformers CLIPModel`."""
    activation: str
    """`gelu`, `quick_gelu`, ...: a silent mismatch is the best-known way to mis-load a CLIP."""
    digest: str
    """sha256 over all weight tensors in canonical order, and over what they do not show (activation, heads,
    preprocessing, tokenizer); independent of file format, names of files and storage precision."""
    visual: VisualPart | None
    text: TextPart | None
    logit_scale: float = 100.0
    """Already exponentiated."""
    logit_bias: float = 0.0
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    files: dict[str, str] = attrs.field(factory=dict)
    """File name to sha256, of what was read."""
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = attrs.field(factory=dict)
    """open_clip's `model_cfg` that builds the same architecture; empty when it is not known, and for
    transformers, whose modules carry theirs."""


@attrs.frozen(eq=False)
class PromptState:
    """Learned prompt tensors of a prompt-tuned delivery, validated, fp32."""

    method: str
    """`CoOp` or `CoCoOp`."""
    ctx: Tensor
    """Context vectors `[n_ctx, width]`, shared by all classes, or `[n_classes, n_ctx, width]` (CoOp CSC)."""
    meta_net: dict[str, Tensor] | None
    """CoCoOp: `linear1.weight [h, embed]`, `linear1.bias [h]`, `linear2.weight [width, h]`, `linear2.bias`
    `[width]`."""
    class_names: tuple[str, ...]
    digest: str
    class_token_position: str = "end"
