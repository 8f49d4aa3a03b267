"""The learnable part of CoOp and CoCoOp on a frozen base."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, PromptState, SharedPrefixText, cocoop_logits, coop_logits, embed_words
from clipsec.protocols import derived_seed
from clipsec_baselines._options import RANDOM, LearnerOptions

_RANDOM_STD = 0.02
"""CoOp: standard deviation of random context vectors."""
_BOTTLENECK = 16
"""CoCoOp: the meta-net's hidden layer has embed_dim // 16 units."""


class PromptLearner:
    """Context vectors, and for CoCoOp a meta-net, in fp32; the text tower is frozen and shared.

    Raises `NotApplicableError` when the base lacks a tower.
    """

    def __init__(
        self,
        clip: ClipModel,
        class_names: Sequence[str],
        options: LearnerOptions,
        seed: int,
    ) -> None:
        if clip.text is None or clip.visual is None:
            raise NotApplicableError(
                f"{clip.name} has one tower only", remedy="Learn prompts on a base with both towers."
            )
        self._clip = clip
        self.method = options.method
        self.class_names = tuple(class_names)
        self.ctx = first_context(clip, options, seed).requires_grad_()
        self.meta_net: dict[str, Tensor] | None = None
        if options.method == "CoCoOp":
            self.meta_net = first_meta_net(clip.visual.embed_dim, clip.text.width, seed)
        self._text = SharedPrefixText(clip, class_names, len(self.ctx), torch.float32, clip.device)

    def parameters(self) -> list[Tensor]:
        """What an optimiser updates."""
        return [self.ctx, *(self.meta_net or {}).values()]

    def logits(self, features: Tensor) -> Tensor:
        """Raw image features `[n, E]` -> `[n, classes]`, differentiable in features and parameters."""
        scale, bias = self._clip.logit_scale, self._clip.logit_bias
        if self.meta_net is None:
            return coop_logits(features, self._text(self.ctx), scale, bias)
        return cocoop_logits(features, self.ctx, self.meta_net, self._text, scale, bias)

    def for_classes(self, class_names: Sequence[str]) -> PromptLearner:
        """The same prompts (not a copy) in front of other class names."""
        other = object.__new__(PromptLearner)
        other.__dict__.update(self.__dict__)
        other.class_names = tuple(class_names)
        other._text = SharedPrefixText(
            self._clip, class_names, len(self.ctx), torch.float32, self._clip.device
        )
        return other

    def state(self) -> PromptState:
        """A copy of what was learned, as a delivery holds it."""
        ctx = self.ctx.detach().cpu().clone()
        meta_net = None
        if self.meta_net is not None:
            meta_net = {name: value.detach().cpu().clone() for name, value in self.meta_net.items()}
        return PromptState(
            method=self.method,
            ctx=ctx,
            meta_net=meta_net,
            class_names=self.class_names,
            digest=_digest(ctx, meta_net),
        )


def first_context(clip: ClipModel, options: LearnerOptions, seed: int) -> Tensor:
    """Context vectors before training, fp32 `[n_ctx, width]`: embeddings of words, or N(0, 0.02)."""
    assert clip.text is not None
    if options.context is None:
        raise ValueError("context is not set; call published(options) first")
    if options.context != RANDOM:
        return embed_words(clip, options.context.replace("_", " ")).to(clip.device)
    generator = torch.Generator().manual_seed(derived_seed(seed, "context"))
    drawn = torch.randn(options.n_context, clip.text.width, generator=generator)
    return (_RANDOM_STD * drawn).to(clip.device)


def first_meta_net(embed_dim: int, width: int, seed: int) -> dict[str, Tensor]:
    """CoCoOp's meta-net before training: Linear(E, E // 16), ReLU, Linear(E // 16, width), torch's default
    init."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "meta-net"))
    hidden = max(1, embed_dim // _BOTTLENECK)
    tensors = {}
    for layer, (inputs, outputs) in {"linear1": (embed_dim, hidden), "linear2": (hidden, width)}.items():
        bound = 1 / math.sqrt(inputs)
        weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
        tensors[f"{layer}.weight"] = weight.requires_grad_()
        tensors[f"{layer}.bias"] = bias.requires_grad_()
    return tensors


def _digest(ctx: Tensor, meta_net: dict[str, Tensor] | None) -> str:
    state = hashlib.sha256()
    for name, value in sorted({"ctx": ctx, **(meta_net or {})}.items()):
        state.update(f"{name}{tuple(value.shape)}".encode())
        state.update(value.contiguous().numpy().tobytes())
    return state.hexdigest()
