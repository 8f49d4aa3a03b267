"""Prompts with a shared prefix equal the stock module on full-length prompts."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError, UsageError
from clipsec.models import ClipModel, PreparationWarning, SharedPrefixText
from clipsec.models import _shared_prefix as shared_prefix
from clipsec.models._shared_prefix import tokenize_prompts
from clipsec.models._text_tower import StockText, stock_features

CPU = torch.device("cpu")
NAMES = ("face", "brain_coral", "leopards of the far north", "car side", "x", "stegosaurus")
CTX = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(5))


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def stock_prompts(clip: ClipModel, names: tuple[str, ...], ctx: Tensor) -> Tensor:
    """CoOp as its authors run it: full-length prompts, one by one context, through the stock module."""
    assert clip.text is not None
    tower = StockText(clip.text, CPU)
    ids = clip.text.tokenizer([f"X X X X {name.replace('_', ' ')}." for name in names])
    table = tower.embed(ids)
    rows = [torch.cat([table[:, :1], row.expand(len(names), -1, -1), table[:, 5:]], dim=1) for row in ctx]
    return torch.stack([tower.with_embeddings(x, ids) for x in rows])


def test_the_stock_reference_is_the_stock_module(text_clip: ClipModel) -> None:
    """With the placeholder's own embedding as context the reference used here is the plain stock module."""
    assert text_clip.text is not None
    ids = text_clip.text.tokenizer([f"X X X X {name.replace('_', ' ')}." for name in NAMES])
    ctx = StockText(text_clip.text, CPU).embed(ids[:1, 1:5])
    with torch.no_grad():
        plain = stock_features(text_clip.text.module, ids)
    assert torch.equal(stock_prompts(text_clip, NAMES, ctx)[0], plain)


def test_features_and_gradients_equal_the_stock_module(text_clip: ClipModel) -> None:
    """Every family: features and context gradients equal the stock module's to 1e-5."""
    ours, theirs = CTX.clone().requires_grad_(), CTX.clone().requires_grad_()
    found = SharedPrefixText(text_clip, NAMES, 4, torch.float32, CPU)(ours)
    expected = stock_prompts(text_clip, NAMES, theirs)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(6))
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    assert found.shape == (3, len(NAMES), expected.shape[-1])
    assert closeness(found, expected) < 1e-5
    assert ours.grad is not None
    assert theirs.grad is not None
    assert closeness(ours.grad, theirs.grad) < 1e-5


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.sampled_from(["a", "sea anemone", "dalmatian", "t_shirt", "old grey owl"]), min_size=1, max_size=9
    ),
    chunk=st.integers(min_value=1, max_value=30),
)
def test_any_chunking_gives_the_same_features(
    names: list[str], chunk: int, clip_of: Callable[[str], ClipModel]
) -> None:
    """How classes are grouped for attention never shows, whatever their number, length and order."""
    clip = clip_of("open_clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "CHUNK_TOKENS", chunk)
        found = SharedPrefixText(clip, names, 4, torch.float32, CPU)(CTX)
    assert closeness(found, stock_prompts(clip, tuple(names), CTX)) < 1e-5


def test_one_context_for_all_is_the_same_as_a_batch_of_one(clip_of: Callable[[str], ClipModel]) -> None:
    """`[n_ctx, width]` gives `[classes, E]`."""
    text = SharedPrefixText(clip_of("open_clip"), NAMES, 4, torch.float32, CPU)
    assert torch.equal(text(CTX[0]), text(CTX[:1])[0])


def test_class_specific_contexts_equal_the_stock_module(text_clip: ClipModel) -> None:
    """CoOp's CSC: each class with its own context equals that class of the shared call with that context."""
    text = SharedPrefixText(text_clip, NAMES, 4, torch.float32, CPU)
    own = torch.randn(len(NAMES), 4, 32, generator=torch.Generator().manual_seed(8))
    expected = torch.stack([stock_prompts(text_clip, NAMES, ctx[None])[0, i] for i, ctx in enumerate(own)])
    assert closeness(text.class_specific(own), expected) < 1e-5


def test_bfloat16_is_close_and_differentiable(text_clip: ClipModel) -> None:
    """The bf16 tower stays within a few per cent, features and gradients, and answers in fp32."""
    exact, rough = CTX.clone().requires_grad_(), CTX.clone().requires_grad_()
    expected = SharedPrefixText(text_clip, NAMES, 4, torch.float32, CPU)(exact)
    found = SharedPrefixText(text_clip, NAMES, 4, torch.bfloat16, CPU)(rough)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert found.dtype == torch.float32
    assert closeness(found, expected) < 0.04
    assert exact.grad is not None
    assert rough.grad is not None
    assert closeness(rough.grad, exact.grad) < 0.08


def test_rows_do_not_depend_on_their_neighbours(clip_of: Callable[[str], ClipModel]) -> None:
    """At one batch size a context's features are bit-equal whatever the other contexts are."""
    for dtype in (torch.float32, torch.bfloat16):
        text = SharedPrefixText(clip_of("open_clip"), NAMES, 4, dtype, CPU)
        others = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(9))
        others[0] = CTX[2]
        assert torch.equal(text(CTX)[2], text(others)[0])


def test_prompts_are_tokenized_as_coop_does(clip_of: Callable[[str], ClipModel]) -> None:
    """SOS, one id a context vector, the name with spaces for underscores, a full stop, EOT, padding."""
    clip = clip_of("open_clip")
    tokens = tokenize_prompts(clip, ["brain_coral"], 4)
    assert clip.text is not None
    assert torch.equal(tokens.ids, clip.text.tokenizer(["X X X X brain coral."]))
    assert tokens.prefix == 5
    assert tokens.suffix(0).tolist() == [*clip.text.tokenizer(["brain coral."])[0, 1:5].tolist()]
    assert int(tokens.suffix(0)[-1]) == 49407


def test_a_name_that_just_fits_is_taken_and_one_longer_is_refused(
    clip_of: Callable[[str], ClipModel],
) -> None:
    """32 tokens: SOS, 4 context vectors, 25 words, full stop, EOT. A 26th word would be cut off silently."""
    clip = clip_of("open_clip")
    fits = " ".join(["cat"] * 25)
    expected = stock_prompts(clip, (fits,), CTX)
    assert closeness(SharedPrefixText(clip, [fits], 4, torch.float32, CPU)(CTX), expected) < 1e-5
    with pytest.raises(UsageError, match="do not fit into 32 tokens") as error:
        SharedPrefixText(clip, ["dog", fits + " cat"], 4, torch.float32, CPU)
    assert "Shorten" in error.value.remedy


@pytest.mark.parametrize("names", [[], ["cat"]])
def test_nothing_to_learn_is_refused(names: list[str], clip_of: Callable[[str], ClipModel]) -> None:
    """No class names, or no context vectors, is an error, not an empty tensor."""
    with pytest.raises(UsageError):
        SharedPrefixText(clip_of("open_clip"), names, 0 if names else 4, torch.float32, CPU)


def test_context_of_another_base_is_refused(clip_of: Callable[[str], ClipModel]) -> None:
    """A context of the wrong width or number of vectors is named with both shapes."""
    text = SharedPrefixText(clip_of("open_clip"), NAMES, 4, torch.float32, CPU)
    with pytest.raises(UsageError, match=r"\[3, 4, 16\], expected \[n, 4, 32\]"):
        text(CTX[..., :16])
    with pytest.raises(UsageError, match="3 class-specific contexts for 6 classes"):
        text.class_specific(CTX)


def test_siglip_cannot_carry_coop_prompts(clip_of: Callable[[str], ClipModel]) -> None:
    """A tower that is not causal has no prefix to share; the error says what to use instead."""
    with pytest.raises(UnsupportedModelError, match="cannot carry CoOp's prompts"):
        SharedPrefixText(clip_of("transformers siglip"), NAMES, 4, torch.float32, CPU)


class Doubled(nn.Module):
    """Looks like its inner text tower, answers twice as much."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return 2 * stock_features(self.inner, ids)


def test_a_tower_that_disagrees_runs_prompts_on_the_stock_module(clip_of: Callable[[str], ClipModel]) -> None:
    """The fallback gives the stock module's features and gradients, shared and class-specific."""
    plain = clip_of("open_clip")
    assert plain.text is not None
    clip = attrs.evolve(plain, text=attrs.evolve(plain.text, module=Doubled(plain.text.module)))
    with pytest.warns(PreparationWarning, match="disagrees"):
        text = SharedPrefixText(clip, NAMES, 4, torch.bfloat16, CPU)
    ours, theirs = CTX.clone().requires_grad_(), CTX.clone().requires_grad_()
    found, expected = text(ours), 2 * stock_prompts(plain, NAMES, theirs)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert closeness(found, expected) < 1e-5
    assert ours.grad is not None
    assert theirs.grad is not None
    assert closeness(ours.grad, theirs.grad) < 1e-5
    own = CTX[:1].expand(len(NAMES), -1, -1)
    assert closeness(text.class_specific(own), expected[0]) < 1e-5


def test_keys_say_what_the_prompts_are(clip_of: Callable[[str], ClipModel]) -> None:
    """Class names, their order and grouping, context length and dtype are all part of the key."""
    clip = clip_of("open_clip")

    def key(names: list[str], n_ctx: int = 4, dtype: torch.dtype = torch.float32) -> str:
        return SharedPrefixText(clip, names, n_ctx, dtype, CPU).key

    assert key(["a", "b"]) == key(["a", "b"])
    others = {key(["b", "a"]), key(["a b"]), key(["a", "b"], 2), key(["a", "b"], 4, torch.bfloat16)}
    assert len(others | {key(["a", "b"])}) == 5
