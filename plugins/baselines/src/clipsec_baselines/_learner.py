"""The learnable part of CoOp and CoCoOp on a frozen base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipsec import models
from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, PromptState, embed_words
from clipsec.protocols import derived_seed
from clipsec_baselines._options import RANDOM, LearnerOptions

_RANDOM_STD = 0.02
"""CoOp: standard deviation of random context vectors."""
_BOTTLENECK = 16
"""CoCoOp: the meta-net's hidden layer has embed_dim // 16 units."""


class PromptLearner(models.PromptLearner):
    """A prompt learner before training; what it does is the core's, where it starts is the method's.

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
        meta_net = None
        if options.method == "CoCoOp":
            meta_net = first_meta_net(clip.visual.embed_dim, clip.text.width, seed)
        first = PromptState(
            method=options.method,
            ctx=first_context(clip, options, seed),
            meta_net=meta_net,
            class_names=tuple(class_names),
            digest="",
        )
        super().__init__(clip, first, dtype=getattr(torch, options.text_dtype))


def first_context(clip: ClipModel, options: LearnerOptions, seed: int) -> Tensor:
    """Context vectors before training, fp32 `[n_ctx, width]`: embeddings of words, or N(0, 0.02)."""
    assert clip.text is not None
    if options.context is None:
        raise ValueError("context is not set; call published(options) first")
    if options.context != RANDOM:
        return embed_words(clip, options.context.replace("_", " "))
    generator = torch.Generator().manual_seed(derived_seed(seed, "context"))
    drawn = torch.randn(options.n_context, clip.text.width, generator=generator)
    return _RANDOM_STD * drawn


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
        tensors[f"{layer}.weight"] = weight
        tensors[f"{layer}.bias"] = bias
    return tensors
