"""Learned prompts as something to go on learning: CoOp's and CoCoOp's tensors on a frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from clipsec.models._heads import check_prompts, cocoop_logits, coop_logits
from clipsec.models._prompt_tensors import make_prompts
from clipsec.models._shared_prefix import SharedPrefixText
from clipsec.models._types import ClipModel, PromptState


class PromptLearner:
    """Context vectors, and for CoCoOp a meta-net, in fp32 and trainable; both towers stay frozen.

        learner = PromptLearner(clip, prompts)            # starts from `prompts`, which it copies
        optimiser = torch.optim.SGD(learner.parameters(), lr=0.002)
        F.cross_entropy(learner.logits(features), labels).backward()
        save_prompts(folder, learner.state(), base=..., epoch=5, clip=clip)

    Gradients reach the parameters and the image features, never the towers; the text tower runs in
    `dtype`. Raises `NotApplicableError` for a base without a text tower, `MalformedModelError` for prompts
    that do not fit it.
    """

    def __init__(self, clip: ClipModel, prompts: PromptState, *, dtype: torch.dtype = torch.float32) -> None:
        check_prompts(clip, prompts)
        self._clip = clip
        self._dtype = dtype
        self.method = prompts.method
        self.class_names = prompts.class_names
        self.ctx = _trainable(prompts.ctx, clip.device)
        self.meta_net: dict[str, Tensor] | None = None
        if prompts.meta_net is not None:
            self.meta_net = {name: _trainable(value, clip.device) for name, value in prompts.meta_net.items()}
        self._text = self._text_of(prompts.class_names)

    def parameters(self) -> list[Tensor]:
        """What an optimiser updates."""
        return [self.ctx, *(self.meta_net or {}).values()]

    def logits(self, features: Tensor) -> Tensor:
        """Raw image features `[n, E]` -> `[n, classes]`, differentiable in features and parameters."""
        scale, bias = self._clip.logit_scale, self._clip.logit_bias
        if self.meta_net is not None:
            return cocoop_logits(features, self.ctx, self.meta_net, self._text, scale, bias)
        text = self._text.class_specific(self.ctx) if self.ctx.dim() == 3 else self._text(self.ctx)
        return coop_logits(features, text, scale, bias)

    def for_classes(self, class_names: Sequence[str]) -> Self:
        """The same prompts (not a copy) in front of other class names."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.class_names = tuple(class_names)
        other._text = self._text_of(class_names)
        return other

    def state(self) -> PromptState:
        """A copy of what was learned, as a delivery holds it and with the digest that its loader gives it.

        Raises `MalformedModelError` when a number is not finite.
        """
        ctx = self.ctx.detach().cpu()
        meta_net = {name: value.detach().cpu() for name, value in (self.meta_net or {}).items()}
        tensors = {"ctx": ctx, **{f"meta_net.{name}": value for name, value in meta_net.items()}}
        return make_prompts(tensors, self.class_names, method=self.method)

    def _text_of(self, class_names: Sequence[str]) -> SharedPrefixText:
        return SharedPrefixText(self._clip, class_names, self.ctx.shape[-2], self._dtype, self._clip.device)


def _trainable(tensor: Tensor, device: torch.device) -> Tensor:
    # A copy: what was delivered stays as it is.
    return tensor.detach().to(device, torch.float32, copy=True).requires_grad_()
