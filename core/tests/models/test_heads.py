"""Heads: raw image features -> logits, as the papers write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from clipsec.errors import MalformedModelError, NotApplicableError, UnsupportedModelError
from clipsec.models import (
    ClipModel,
    PromptState,
    cocoop_logits,
    coop_logits,
    encode_texts,
    meta_net_bias,
    prepare_image_tower,
    prepare_prompt_head,
    prepare_zero_shot_head,
)
from clipsec.models._text_tower import StockText

CPU = torch.device("cpu")
NAMES = ("face", "brain_coral", "leopards of the far north", "x")
FEATURES = 3 * torch.randn(5, 24, generator=torch.Generator().manual_seed(1))


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def draw(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Seeded normal numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coop(ctx: Tensor) -> PromptState:
    """A CoOp delivery."""
    return PromptState("CoOp", ctx, None, NAMES, "digest")


def cocoop() -> PromptState:
    """A CoCoOp delivery with a meta-net of two hidden units."""
    meta_net = {
        "linear1.weight": draw(2, 24, seed=2),
        "linear1.bias": draw(2, seed=3),
        "linear2.weight": draw(32, 2, seed=4),
        "linear2.bias": draw(32, seed=5),
    }
    return PromptState("CoCoOp", draw(4, 32, seed=6), meta_net, NAMES, "digest")


def reference_logits(clip: ClipModel, prompts: PromptState, features: Tensor) -> Tensor:
    """The authors' forward, picture by picture and at full length, through the stock text module."""
    assert clip.text is not None
    tower = StockText(clip.text, CPU)
    ids = clip.text.tokenizer([f"X X X X {name.replace('_', ' ')}." for name in NAMES])
    table = tower.embed(ids)
    rows = []
    for feature in features:
        normed = feature / feature.norm()
        ctx = prompts.ctx
        if prompts.meta_net is not None:
            net = nn.Sequential(nn.Linear(24, 2), nn.ReLU(), nn.Linear(2, 32))
            renamed = {
                name.replace("linear1", "0").replace("linear2", "2"): value
                for name, value in prompts.meta_net.items()
            }
            net.load_state_dict(renamed)
            ctx = ctx + net(normed)
        ctx = ctx.expand(len(NAMES), -1, -1)
        text = tower.with_embeddings(torch.cat([table[:, :1], ctx, table[:, 5:]], dim=1), ids)
        text = text / text.norm(dim=-1, keepdim=True)
        rows.append(clip.logit_scale * text @ normed)
    return torch.stack(rows)


@pytest.mark.parametrize("family", ["open_clip", "open_clip custom", "transformers"])
@pytest.mark.parametrize("prompts", [coop(draw(4, 32, seed=6)), coop(draw(4, 4, 32, seed=7)), cocoop()])
def test_prompt_heads_equal_the_authors_forward(
    family: str, prompts: PromptState, clip_of: Callable[[str], ClipModel]
) -> None:
    """CoOp shared, CoOp class-specific and CoCoOp in fp32: logits and feature gradients to 1e-5."""
    clip = clip_of(family)
    head = prepare_prompt_head(clip, prompts, torch.float32, CPU)
    ours, theirs = FEATURES.clone().requires_grad_(), FEATURES.clone().requires_grad_()
    found, expected = head.fn(ours), reference_logits(clip, prompts, theirs)
    cotangent = draw(*expected.shape, seed=8)
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    assert closeness(found, expected) < 1e-5
    assert ours.grad is not None
    assert theirs.grad is not None
    assert closeness(ours.grad, theirs.grad) < 2e-5


def test_bfloat16_cocoop_head_is_close(clip_of: Callable[[str], ClipModel]) -> None:
    """The bf16 text tower moves CoCoOp's logits by no more than a few per cent of the logit scale."""
    clip = clip_of("open_clip")
    head = prepare_prompt_head(clip, cocoop(), torch.bfloat16, CPU)
    found = head.fn(FEATURES)
    assert found.dtype == torch.float32
    difference = (found - reference_logits(clip, cocoop(), FEATURES)).detach().abs().max()
    assert float(difference) < 0.02 * clip.logit_scale


def test_constant_heads_are_fp32_whatever_is_asked(clip_of: Callable[[str], ClipModel]) -> None:
    """CoOp and zero-shot heads are one small product: bf16 would only cost accuracy."""
    clip = clip_of("open_clip")
    for make in (
        lambda dtype: prepare_prompt_head(clip, coop(draw(4, 32, seed=6)), dtype, CPU),
        lambda dtype: prepare_zero_shot_head(clip, NAMES, dtype, CPU),
    ):
        rough, exact = make(torch.bfloat16), make(torch.float32)
        assert rough.dtype == torch.float32
        assert rough.key == exact.key
        assert torch.equal(rough.fn(FEATURES), exact.fn(FEATURES))


def test_zero_shot_head_uses_the_template_and_the_cosine(clip_of: Callable[[str], ClipModel]) -> None:
    """ "a photo of a NAME." with spaces for underscores, cosine times the logit scale plus the bias."""
    clip = attrs.evolve(clip_of("open_clip"), logit_bias=-3.0)
    head = prepare_zero_shot_head(clip, NAMES, torch.float32, CPU)
    texts = encode_texts(clip, [f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    cosine = torch.nn.functional.cosine_similarity(FEATURES[:, None], texts[None], dim=-1)
    torch.testing.assert_close(head.fn(FEATURES), 20 * cosine - 3)


def test_logits_do_not_depend_on_the_length_of_the_feature(clip_of: Callable[[str], ClipModel]) -> None:
    """Heads normalise the raw features themselves."""
    clip = clip_of("open_clip")
    for head in (
        prepare_zero_shot_head(clip, NAMES, torch.float32, CPU),
        prepare_prompt_head(clip, cocoop(), torch.float32, CPU),
    ):
        torch.testing.assert_close(head.fn(7 * FEATURES), head.fn(FEATURES), rtol=1e-4, atol=1e-4)


def test_pure_functions_train_the_prompts(clip_of: Callable[[str], ClipModel]) -> None:
    """`cocoop_logits` carries gradients to context and meta-net, `coop_logits` to the text features."""
    prompts = cocoop()
    assert prompts.meta_net is not None
    ctx = prompts.ctx.clone().requires_grad_()
    meta_net = {name: value.clone().requires_grad_() for name, value in prompts.meta_net.items()}
    text = draw(4, 24, seed=9)

    def towers(contexts: Tensor) -> Tensor:
        return contexts.mean(dim=(1, 2))[:, None, None] * text

    cocoop_logits(FEATURES, ctx, meta_net, towers, 20.0).square().sum().backward()
    assert ctx.grad is not None
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in meta_net.values())
    features = text.clone().requires_grad_()
    coop_logits(FEATURES, features, 20.0).sum().backward()
    assert features.grad is not None
    assert float((features.grad * text).sum().abs()) < 1e-4  # a cosine does not change along its argument


def test_meta_net_runs_in_its_own_dtype() -> None:
    """A meta-net delivered in half precision computes in half precision."""
    meta_net = cocoop().meta_net
    assert meta_net is not None
    half = {name: value.half() for name, value in meta_net.items()}
    assert meta_net_bias(FEATURES, half).dtype == torch.float16
    torch.testing.assert_close(
        meta_net_bias(FEATURES, half).float(), meta_net_bias(FEATURES, meta_net), rtol=1e-2, atol=5e-2
    )


def test_keys_say_what_a_head_is(clip_of: Callable[[str], ClipModel]) -> None:
    """Prompts, meta-net, class names, base and logit scale are part of a head's key."""
    clip, prompts = clip_of("open_clip"), cocoop()
    assert prompts.meta_net is not None
    changed_net = {**prompts.meta_net, "linear1.bias": prompts.meta_net["linear1.bias"] + 1}

    def key(clip: ClipModel, prompts: PromptState, dtype: torch.dtype = torch.float32) -> str:
        return prepare_prompt_head(clip, prompts, dtype, CPU).key

    keys = [
        key(clip, prompts),
        key(clip, prompts, torch.bfloat16),
        key(clip, attrs.evolve(prompts, ctx=prompts.ctx + 1)),
        key(clip, attrs.evolve(prompts, meta_net=changed_net)),
        key(clip, attrs.evolve(prompts, class_names=NAMES[::-1])),
        key(clip, attrs.evolve(prompts, meta_net=None)),
        key(attrs.evolve(clip, logit_scale=21.0), prompts),
        key(clip_of("open_clip custom"), prompts),
        prepare_zero_shot_head(clip, NAMES, torch.float32, CPU).key,
        prepare_zero_shot_head(clip, NAMES[::-1], torch.float32, CPU).key,
    ]
    assert len(set(keys)) == len(keys)
    assert key(clip, prompts) == keys[0]


def test_prompts_that_do_not_fit_are_refused(clip_of: Callable[[str], ClipModel]) -> None:
    """A wrong base, class-specific prompts for other names and class names in the middle are clear errors."""
    clip, prompts = clip_of("open_clip"), cocoop()
    with pytest.raises(MalformedModelError, match="ctx has shape"):
        prepare_prompt_head(clip, coop(draw(4, 16, seed=6)), torch.float32, CPU)
    assert prompts.meta_net is not None
    wide = {**prompts.meta_net, "linear1.weight": draw(2, 25, seed=1)}
    with pytest.raises(MalformedModelError, match=r"meta_net.linear1.weight"):
        prepare_prompt_head(clip, attrs.evolve(prompts, meta_net=wide), torch.float32, CPU)
    with pytest.raises(MalformedModelError, match="3 classes, but 4 class names"):
        prepare_prompt_head(clip, coop(draw(3, 4, 32, seed=6)), torch.float32, CPU)
    middle = attrs.evolve(prompts, class_token_position="middle")
    with pytest.raises(UnsupportedModelError, match="middle"):
        prepare_prompt_head(clip, middle, torch.float32, CPU)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_towers_made_without_gradients_have_them_later(
    mode: Any, new_clip: Callable[[str], ClipModel]
) -> None:
    """Preparing inside no_grad or inference_mode gives the same towers, gradients included."""
    clip = new_clip("open_clip quickgelu")
    with mode():
        tower = prepare_image_tower(clip, torch.bfloat16, CPU)
        heads = [
            prepare_zero_shot_head(clip, NAMES, torch.float32, CPU),
            prepare_prompt_head(clip, cocoop(), torch.bfloat16, CPU),
        ]
    pixels = torch.rand(2, 3, 64, 64).bfloat16().requires_grad_()
    for head in heads:
        head.fn(tower.fn(pixels)).square().sum().backward()
    assert pixels.grad is not None
    assert bool(pixels.grad.any())


def test_no_class_names_is_not_applicable(clip_of: Callable[[str], ClipModel]) -> None:
    """Zero-shot without names says how to give them."""
    with pytest.raises(NotApplicableError, match="no class names"):
        prepare_zero_shot_head(clip_of("open_clip"), (), torch.float32, CPU)


def test_cocoop_heads_ask_for_a_batch_that_fits_their_cost(clip_of: Callable[[str], ClipModel]) -> None:
    """One row of a CoCoOp head is all its prompts, so many classes mean a smaller micro-batch."""
    clip = clip_of("open_clip")
    many = attrs.evolve(cocoop(), class_names=tuple(f"cat {i}" for i in range(200)))
    few_rows = prepare_prompt_head(clip, cocoop(), torch.float32, CPU).micro_batch
    many_rows = prepare_prompt_head(clip, many, torch.float32, CPU).micro_batch
    assert few_rows is not None
    assert many_rows is not None
    assert 1 <= many_rows < few_rows
    assert few_rows & (few_rows - 1) == many_rows & (many_rows - 1) == 0
