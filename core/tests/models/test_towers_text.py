"""Prepared text towers compute what the libraries' own modules compute."""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clipsec.errors import NotApplicableError, UsageError
from clipsec.models import ClipModel, PreparationWarning, encode_texts, prepare_text_tower, truncate_ids
from clipsec.models._text_tower import encode_embeddings, stock_features, text_weights

TEXTS = ("a photo of a cat.", "hello", "the quick brown fox jumps over a lazy dog", "")
CPU = torch.device("cpu")


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def stock(clip: ClipModel, texts: tuple[str, ...] = TEXTS) -> Tensor:
    """The library's own answer on full-length prompts."""
    assert clip.text is not None
    with torch.no_grad():
        return stock_features(clip.text.module, clip.text.tokenizer(texts))


def test_every_family_is_read_into_weights(text_clip: ClipModel) -> None:
    """No supported family falls back to its stock module."""
    weights = text_weights(text_clip)
    assert weights is not None
    assert weights.truncatable


def test_encode_texts_equals_the_stock_module(text_clip: ClipModel) -> None:
    """Texts cut at their end token, sorted and chunked, give the stock features in the given order."""
    assert closeness(encode_texts(text_clip, TEXTS), stock(text_clip)) < 1e-5


def test_prepared_tower_equals_the_stock_module_at_any_length(text_clip: ClipModel) -> None:
    """A tower cut to the longest real text and one at full length both equal the stock module."""
    assert text_clip.text is not None
    ids = text_clip.text.tokenizer(TEXTS)
    short = truncate_ids(text_clip, ids)
    assert short.shape[1] == 11
    for rows in (ids, short):
        tower = prepare_text_tower(text_clip, torch.float32, CPU, length=rows.shape[1])
        assert closeness(tower.fn(rows), stock(text_clip)) < 1e-5


def test_bfloat16_is_close(text_clip: ClipModel) -> None:
    """bf16 weights move features by no more than bf16's own rounding (a few per cent)."""
    tower = prepare_text_tower(text_clip, torch.bfloat16, CPU)
    assert text_clip.text is not None
    found = tower.fn(text_clip.text.tokenizer(TEXTS))
    assert found.dtype == torch.float32
    assert closeness(found, stock(text_clip)) < 0.04


def test_gradient_with_respect_to_embeddings_equals_the_stock_gradient(
    clip_of: Callable[[str], ClipModel],
) -> None:
    """Gradients of truncated prompts equal the stock module's, and tokens after the end get none."""
    clip = clip_of("open_clip")
    weights = text_weights(clip)
    assert weights is not None
    assert clip.text is not None
    ids = clip.text.tokenizer(TEXTS[:3])
    ends = weights.end_positions(ids)
    module = copy.deepcopy(clip.text.module)
    captured: list[Tensor] = []

    def capture(_: nn.Module, __: object, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    module.get_submodule("token_embedding").register_forward_hook(capture)
    cotangent = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))
    (stock_features(module, ids) * cotangent).sum().backward()
    expected = captured[0].grad
    assert expected is not None
    length = int(ends.max()) + 1
    x = weights.embed(ids[:, :length]).detach().requires_grad_()
    (encode_embeddings(weights.prepared(torch.float32, CPU), x, ends) * cotangent).sum().backward()
    assert x.grad is not None
    assert closeness(x.grad, expected[:, :length]) < 1e-5
    assert not expected[:, length:].any()
    assert not x.grad[1, int(ends[1]) + 1 :].any()


def test_siglip_is_exact_and_not_truncatable(clip_of: Callable[[str], ClipModel]) -> None:
    """A bidirectional tower read at its last position runs at full length only, and says so."""
    clip = clip_of("transformers siglip")
    assert closeness(encode_texts(clip, TEXTS), stock(clip)) < 1e-5
    assert clip.text is not None
    ids = clip.text.tokenizer(TEXTS)
    assert truncate_ids(clip, ids) is ids
    with pytest.raises(UsageError, match="12 tokens"):
        prepare_text_tower(clip, torch.float32, CPU, length=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(8)),
    others=st.integers(min_value=0, max_value=2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_rows_do_not_depend_on_their_neighbours(
    order: list[int], others: int, dtype: torch.dtype, clip_of: Callable[[str], ClipModel]
) -> None:
    """At one batch size a row is bit-equal wherever it stands and whatever else is in the batch."""
    clip = clip_of("open_clip")
    tower = prepare_text_tower(clip, dtype, CPU, length=12)
    ids = torch.randint(1, 40_000, (8, 12), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 49407
    expected = tower.fn(ids)
    assert torch.equal(tower.fn(ids[order]), expected[order])
    changed = torch.randint(1, 40_000, (8, 12), generator=torch.Generator().manual_seed(others))
    changed[:, -1] = 49407
    changed[3] = ids[3]
    assert torch.equal(tower.fn(changed)[3], expected[3])


def test_the_given_model_is_not_changed(text_clip: ClipModel) -> None:
    """Preparing and running towers leaves the source module's bytes, dtype and answers alone."""
    assert text_clip.text is not None
    module = text_clip.text.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    answer = stock(text_clip)
    prepare_text_tower(text_clip, torch.bfloat16, CPU).fn(text_clip.text.tokenizer(TEXTS))
    encode_texts(text_clip, TEXTS, torch.bfloat16)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(stock(text_clip), answer)


def test_a_tower_that_disagrees_falls_back_to_the_stock_module(clip_of: Callable[[str], ClipModel]) -> None:
    """A module whose forward does something else than its weights say is used as it is, with a warning."""
    clip = with_text(clip_of("open_clip"), Doubled)
    with pytest.warns(PreparationWarning, match="disagrees"):
        features = encode_texts(clip, TEXTS)
    assert closeness(features, stock(clip)) < 1e-5
    tower = prepare_text_tower(clip, torch.bfloat16, CPU)  # warns once a model
    assert "stock" in tower.label
    assert tower.dtype == torch.float32
    assert clip.text is not None
    assert closeness(tower.fn(clip.text.tokenizer(TEXTS)), stock(clip)) < 1e-5


def test_an_unknown_architecture_falls_back_to_the_stock_module(clip_of: Callable[[str], ClipModel]) -> None:
    """A text tower without CLIP's structure runs on its stock module, with a warning that says why."""
    clip = with_text(clip_of("open_clip"), Bag)
    with pytest.warns(PreparationWarning, match="no CLIP text transformer in a Bag"):
        features = encode_texts(clip, TEXTS)
    assert closeness(features, stock(clip)) < 1e-5


class Doubled(nn.Module):
    """Looks like its inner text tower, answers twice as much."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return 2 * stock_features(self.inner, ids)


class Bag(nn.Module):
    """A bag of words: a text tower, but no transformer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.token_embedding = inner.get_submodule("token_embedding")

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids).mean(dim=1)[:, :24]


def with_text(clip: ClipModel, wrap: Callable[[nn.Module], nn.Module]) -> ClipModel:
    """The same model with its text module wrapped."""
    assert clip.text is not None
    return attrs.evolve(clip, text=attrs.evolve(clip.text, module=wrap(clip.text.module)))


def test_keys_say_what_a_tower_is(clip_of: Callable[[str], ClipModel]) -> None:
    """Same weights, dtype and length: same key; any other of them: another key."""
    a, b = clip_of("open_clip"), clip_of("transformers")
    key = prepare_text_tower(a, torch.float32, CPU).key
    assert prepare_text_tower(a, torch.float32, CPU).key == key
    others = {
        prepare_text_tower(a, torch.bfloat16, CPU).key,
        prepare_text_tower(a, torch.float32, CPU, length=12).key,
        prepare_text_tower(b, torch.float32, CPU).key,
    }
    assert len(others | {key}) == 4


def test_rows_of_another_length_are_refused(clip_of: Callable[[str], ClipModel]) -> None:
    """A tower prepared for 12 tokens refuses rows of 32 instead of answering with another key's function."""
    tower = prepare_text_tower(clip_of("open_clip"), torch.float32, CPU, length=12)
    with pytest.raises(UsageError, match="12 tokens"):
        tower.fn(torch.zeros(1, 32, dtype=torch.int64))


def test_a_model_without_text_tower_is_not_applicable(clip_of: Callable[[str], ClipModel]) -> None:
    """Asking an image tower for texts is a clear error with a remedy."""
    clip = attrs.evolve(clip_of("open_clip"), text=None)
    with pytest.raises(NotApplicableError, match="no text tower"):
        encode_texts(clip, TEXTS)


def test_no_texts_give_no_features(clip_of: Callable[[str], ClipModel]) -> None:
    """An empty list of texts is an empty batch, not an error."""
    assert encode_texts(clip_of("open_clip"), []).shape == (0, 24)
