"""Classification heads: raw image features -> logits over the class names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.errors import MalformedModelError, NotApplicableError, UnsupportedModelError
from clipsec.models._prepare import outside_inference, tensor_digest, tower_key
from clipsec.models._shared_prefix import SharedPrefixText, clean_name
from clipsec.models._text_tower import encode_texts, text_part
from clipsec.models._types import ClipModel, PromptState
from clipsec.scheduler import Tower

ZERO_SHOT_TEMPLATE = "a photo of a {}."

TOKENS_PER_CALL_ON_CPU = 2048
"""CoCoOp's head reaches its full rate from about 1,400 tokens a call on (25 to 100 classes); more only
costs memory."""


def coop_logits(features: Tensor, text: Tensor, logit_scale: float, logit_bias: float = 0.0) -> Tensor:
    """Scaled cosines: image features `[n, E]`, text features `[C, E]` (neither normalised) -> `[n, C]`.

    Radford et al. 2021, section 2.3; CoOp (Zhou et al., IJCV 2022), eq. 1.
    """
    cosine = F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).t()
    return logit_scale * cosine + logit_bias


def meta_net_bias(features: Tensor, meta_net: Mapping[str, Tensor]) -> Tensor:
    """CoCoOp's meta-net, Linear - ReLU - Linear: normalised image features `[n, E]` -> shift of the context
    `[n, width]`.

    Runs in the dtype of its weights.
    """
    x = features.to(meta_net["linear1.weight"].dtype)
    hidden = F.relu(F.linear(x, meta_net["linear1.weight"], meta_net["linear1.bias"]))
    return F.linear(hidden, meta_net["linear2.weight"], meta_net["linear2.bias"])


def cocoop_logits(
    features: Tensor,
    ctx: Tensor,
    meta_net: Mapping[str, Tensor],
    text: Callable[[Tensor], Tensor],
    logit_scale: float,
    logit_bias: float = 0.0,
) -> Tensor:
    """CoCoOp (Zhou et al., CVPR 2022, section 3.2): the context of each picture is `ctx + meta_net(feature)`.

    `features [n, E]` raw image features, `ctx [n_ctx, width]`, `text` maps contexts `[n, n_ctx, width]` to
    text features `[n, C, E]` (a `SharedPrefixText`). Returns `[n, C]` fp32, differentiable in features, ctx
    and meta-net.
    """
    normed = F.normalize(features, dim=-1)
    shift = meta_net_bias(normed, meta_net).to(ctx.dtype)
    of_classes = F.normalize(text(ctx + shift[:, None, :]), dim=-1)
    cosine = torch.einsum("ne,nce->nc", normed.to(of_classes.dtype), of_classes)
    return logit_scale * cosine + logit_bias


@outside_inference
def prepare_zero_shot_head(
    clip: ClipModel, class_names: Sequence[str], dtype: torch.dtype, device: torch.device | str
) -> Tower:
    """The base's own answer, "a photo of a NAME.": raw image features fp32 `[n, E]` -> logits fp32 `[n, C]`.

    The text features are constants, computed once in fp32; what is left is one small product, in fp32
    whatever `dtype` the rest of the audit runs in.
    """
    if not class_names:
        raise NotApplicableError(
            f"{clip.name} has no class names", remedy="Name them with --classes FILE, one a line."
        )
    part = text_part(clip)
    text = encode_texts(clip, [ZERO_SHOT_TEMPLATE.format(clean_name(name)) for name in class_names])
    parts = (part.digest, ZERO_SHOT_TEMPLATE, *_scale(clip), *class_names)
    key = tower_key("zero-shot", *parts, dtype=torch.float32)
    return _constant_head(clip, text, key, f"head zero-shot {len(class_names)} classes", device)


@outside_inference
def prepare_prompt_head(
    clip: ClipModel, prompts: PromptState, dtype: torch.dtype, device: torch.device | str
) -> Tower:
    """A prompt-tuned delivery's answer: raw image features fp32 `[n, E]` -> logits fp32 `[n, C]`.

    CoOp's text features are constants: computed once in fp32, the head is one fp32 product. CoCoOp's depend
    on the picture: the text tower runs in `dtype`, the meta-net and the cosines in fp32. Raises
    `UnsupportedModelError` for class tokens that do not stand at the end, `MalformedModelError` when the
    prompts do not fit the base.
    """
    check_prompts(clip, prompts)
    device = torch.device(device)
    part = text_part(clip)
    label = f"head {prompts.method} {len(prompts.class_names)} classes"
    # Copies: training may go on with the prompts it was given, a tower never changes.
    ctx = prompts.ctx.detach().clone().float().to(device)
    parts = [part.digest, *_scale(clip), tensor_digest(prompts.ctx)]
    if prompts.meta_net is None:
        text = SharedPrefixText(clip, prompts.class_names, ctx.shape[-2], torch.float32, device)
        with torch.no_grad():
            constant = text.class_specific(ctx) if ctx.dim() == 3 else text(ctx)
        key = tower_key("coop", *parts, *prompts.class_names, dtype=torch.float32)
        return _constant_head(clip, constant, key, label, device)

    text = SharedPrefixText(clip, prompts.class_names, ctx.shape[-2], dtype, device)
    meta_net = {name: value.detach().clone().float().to(device) for name, value in prompts.meta_net.items()}
    parts += [tensor_digest(prompts.meta_net[name]) for name in sorted(prompts.meta_net)]

    def head(features: Tensor) -> Tensor:
        return cocoop_logits(features.float(), ctx, meta_net, text, clip.logit_scale, clip.logit_bias)

    return Tower(
        key=tower_key("cocoop", text.key, *parts, dtype=text.dtype),
        fn=head,
        label=f"{label} {str(text.dtype).removeprefix('torch.')}",
        device=device,
        micro_batch=_contexts_per_call(text) if device.type == "cpu" else None,
    )


def _contexts_per_call(text: SharedPrefixText) -> int:
    """The largest power of two of contexts that stays within `TOKENS_PER_CALL_ON_CPU`, at least one."""
    return 1 << max(0, (TOKENS_PER_CALL_ON_CPU // text.tokens_per_context).bit_length() - 1)


def _constant_head(clip: ClipModel, text: Tensor, key: str, label: str, device: torch.device | str) -> Tower:
    weight = (clip.logit_scale * F.normalize(text.detach(), dim=-1)).to(device)
    bias = clip.logit_bias

    def head(features: Tensor) -> Tensor:
        return F.linear(F.normalize(features.float(), dim=-1), weight) + bias

    return Tower(key=key, fn=head, label=f"{label} float32", device=torch.device(device))


def _scale(clip: ClipModel) -> tuple[str, str]:
    return float(clip.logit_scale).hex(), float(clip.logit_bias).hex()


def check_prompts(clip: ClipModel, prompts: PromptState) -> None:
    part = text_part(clip)
    if prompts.class_token_position != "end":
        raise UnsupportedModelError(
            f"the class name stands at the {prompts.class_token_position} of the prompt",
            remedy='Deliver prompts trained with CLASS_TOKEN_POSITION "end", CoOp\'s default.',
        )
    shapes = {"ctx": (tuple(prompts.ctx.shape), part.width, prompts.ctx.shape[-1])}
    if prompts.meta_net is not None:
        first, second = prompts.meta_net["linear1.weight"], prompts.meta_net["linear2.weight"]
        shapes["meta_net.linear1.weight"] = (tuple(first.shape), part.embed_dim, first.shape[-1])
        shapes["meta_net.linear2.weight"] = (tuple(second.shape), part.width, second.shape[0])
    for name, (shape, expected, found) in shapes.items():
        if expected != found:
            raise MalformedModelError(
                f"{name} has shape {list(shape)}; {clip.name} needs {expected} where it has {found}",
                remedy="Name the base model the prompts were learned on with --base.",
            )
    if prompts.ctx.dim() == 3 and (
        prompts.meta_net is not None or len(prompts.ctx) != len(prompts.class_names)
    ):
        raise MalformedModelError(
            f"class-specific context for {len(prompts.ctx)} classes, "
            f"but {len(prompts.class_names)} class names",
            remedy="Give the class names in the order the prompts were trained with.",
        )
