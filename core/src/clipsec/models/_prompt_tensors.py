"""A prompt learner's tensors: CoOp's and CoCoOp's state dicts, checked, and written again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipsec.errors import MalformedModelError, UnsupportedModelError
from clipsec.models._build import non_finite
from clipsec.models._delivery import check_class_names
from clipsec.models._digest import state_digest
from clipsec.models._files import shown_names
from clipsec.models._shared_prefix import tokenize_prompts
from clipsec.models._text_tower import text_weights
from clipsec.models._types import ClipModel, PromptState

TOKENS = ("token_prefix", "token_suffix")
"""Embeddings of the start token and of the names, saved with the prompts; the authors' loader drops them."""

_META_NET = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")


def make_prompts(
    tensors: Mapping[str, Tensor],
    class_names: tuple[str, ...],
    *,
    method: str = "",
    class_token_position: str = "end",
) -> PromptState:
    """Validated prompts from a prompt learner's state dict; half precision becomes fp32.

    Raises `MalformedModelError` for missing, extra, misshapen or non-finite tensors, unusable class names,
    and tensors that are not the stated method's; `UnsupportedModelError` for other prompt learners (MaPLe,
    ...).
    """
    names = check_class_names(class_names)
    allowed = {"ctx", *TOKENS, *(f"meta_net.{name}" for name in _META_NET)}
    unknown = set(tensors) - allowed
    if "ctx" not in tensors or unknown:
        if any(name.startswith(("compound_prompts", "proj.")) for name in unknown):
            raise UnsupportedModelError(
                "these are MaPLe's prompts, which are not supported yet", remedy="CoOp and CoCoOp are."
            )
        wrong = f"unknown tensors: {shown_names(unknown)}" if unknown else "no tensor ctx"
        raise UnsupportedModelError(
            f"these are not the prompts of CoOp or CoCoOp: {wrong}",
            remedy="Deliver prompt_learner/ as CoOp's trainer saves it.",
        )
    bad = non_finite((name, tensor) for name, tensor in tensors.items() if name not in TOKENS)
    if bad:
        raise MalformedModelError(
            f"the prompts hold numbers that are not finite: {shown_names(bad)}",
            remedy="The training diverged: ask the vendor for a working checkpoint.",
        )
    ctx = _floating("ctx", tensors["ctx"])
    meta_net = None
    if any(name.startswith("meta_net.") for name in tensors):
        meta_net = _meta_net(tensors, ctx)
    inferred = "CoOp" if meta_net is None else "CoCoOp"
    if method and method != inferred:
        raise MalformedModelError(
            f"the delivery says {method}, its tensors are {inferred}'s", remedy="Ask the vendor which it is."
        )
    if class_token_position != "end":
        raise UnsupportedModelError(
            f"the class name stands at the {class_token_position} of the prompt",
            remedy='Deliver prompts trained with CLASS_TOKEN_POSITION "end", CoOp\'s default.',
        )
    if ctx.dim() not in (2, 3) or 0 in ctx.shape or (ctx.dim() == 3 and meta_net is not None):
        raise _misshapen("ctx", ctx, "[n_ctx, width], or for CoOp [classes, n_ctx, width]")
    if ctx.dim() == 3 and ctx.shape[0] != len(names):
        raise MalformedModelError(
            f"there are contexts for {ctx.shape[0]} classes and {len(names)} class names",
            remedy="Give the class names of the training, in its order: --classes FILE.",
        )
    state = {"ctx": ctx} | {f"meta_net.{name}": tensor for name, tensor in (meta_net or {}).items()}
    return PromptState(
        method=inferred,
        ctx=ctx,
        meta_net=meta_net,
        class_names=names,
        digest=state_digest(state, class_names=list(names), position=class_token_position),
        class_token_position=class_token_position,
    )


def _floating(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise MalformedModelError(
            f"{name} holds {tensor.dtype} instead of floating-point numbers", remedy="Ask the vendor for it."
        )
    # A copy: the tensor may still lie in its file.
    return tensor.detach().to(torch.float32, copy=True).contiguous()


def _misshapen(name: str, tensor: Tensor, expected: str) -> MalformedModelError:
    return MalformedModelError(
        f"{name} has the shape {list(tensor.shape)}, expected {expected}",
        remedy="Ask the vendor for the prompts that belong to this method and base.",
    )


def _meta_net(tensors: Mapping[str, Tensor], ctx: Tensor) -> dict[str, Tensor]:
    missing = [name for name in _META_NET if f"meta_net.{name}" not in tensors]
    if missing:
        raise MalformedModelError(
            f"the meta-net lacks {shown_names(missing)}",
            remedy="Ask the vendor for the complete prompt learner.",
        )
    net = {name: _floating(f"meta_net.{name}", tensors[f"meta_net.{name}"]) for name in _META_NET}
    first, second = net["linear1.weight"], net["linear2.weight"]
    if first.dim() != 2 or second.dim() != 2 or 0 in (*first.shape, *second.shape):
        raise _misshapen("meta_net.linear1.weight", first, "[hidden, image features]")
    hidden, width = first.shape[0], ctx.shape[-1]
    for name, shape in {
        "linear1.bias": (hidden,),
        "linear2.weight": (width, hidden),
        "linear2.bias": (width,),
    }.items():
        if tuple(net[name].shape) != shape:
            raise _misshapen(f"meta_net.{name}", net[name], str(list(shape)))
    return net


def check_token_shapes(tokens: Mapping[str, Tensor], prompts: PromptState) -> None:
    for name, tensor in tokens.items():
        if tensor.dim() != 3 or tensor.shape[2] != prompts.ctx.shape[-1] or not tensor.is_floating_point():
            raise _misshapen(name, tensor, f"[classes, tokens, {prompts.ctx.shape[-1]}]")
        if tensor.shape[0] != len(prompts.class_names):
            raise MalformedModelError(
                f"the prompts were saved for {tensor.shape[0]} classes; {len(prompts.class_names)} are named",
                remedy="Give the class names of the training, in its order: --classes FILE.",
            )


def learner_state(prompts: PromptState, clip: ClipModel | None = None) -> dict[str, Any]:
    """The state dict of the authors' prompt learner, with `token_prefix` and `token_suffix` when `clip` is
    given."""
    state: dict[str, Any] = {"ctx": prompts.ctx.detach().clone()}
    for name, tensor in (prompts.meta_net or {}).items():
        state[f"meta_net.{name}"] = tensor.detach().clone()
    weights = None if clip is None else text_weights(clip)
    if clip is not None and weights is not None:
        ids = tokenize_prompts(clip, prompts.class_names, prompts.ctx.shape[-2]).ids
        with torch.no_grad():
            state["token_prefix"] = weights.embed(ids[:, :1]).clone()
            state["token_suffix"] = weights.embed(ids[:, 1 + prompts.ctx.shape[-2] :]).clone()
    return state
