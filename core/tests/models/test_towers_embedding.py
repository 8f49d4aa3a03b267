"""A text tower run from its embeddings computes what the libraries' own modules compute."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from clipsec.errors import NotApplicableError, UsageError
from clipsec.models import (
    ClipModel,
    ClipTokenizer,
    clip_from_transformers,
    decode_ids,
    embed_ids,
    encode_texts,
    end_positions,
    is_causal,
    last_attention,
    pad_with_end,
    pool_hidden_states,
    prepare_embedding_tower,
    same_text_tower,
    token_table,
)

TEXTS = ("a photo of a cat.", "hello", "the quick brown fox jumps over a lazy dog")
FAMILIES = (
    "open_clip",
    "open_clip quickgelu",
    "open_clip custom eos",
    "transformers",
    "transformers text",
    "transformers siglip",
)


def ids_of(clip: ClipModel) -> Tensor:
    assert clip.text is not None
    return clip.text.tokenizer(TEXTS)


def stock_hidden(clip: ClipModel, ids: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What enters the stock module's first block and what leaves its final norm; `given` replaces the
    former."""
    assert clip.text is not None
    module: Any = copy.deepcopy(clip.text.module)
    names = dict(module.named_modules())
    first = next(n for n in names if n.endswith(("resblocks.0", "layers.0")) and not n.startswith("vis"))
    final = next(n for n in names if n.endswith(("ln_final", "final_layer_norm")))
    seen: list[Tensor] = []

    def enter(_: object, args: Any, kwargs: Any) -> Any:
        name = "hidden_states" if "hidden_states" in kwargs else None
        seen.append(kwargs[name] if name else args[0])
        if given is None:
            return None
        return (args, {**kwargs, name: given}) if name else ((given, *args[1:]), kwargs)

    names[first].register_forward_pre_hook(enter, with_kwargs=True)
    names[final].register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        method = getattr(module, "encode_text", None) or getattr(module, "get_text_features", module)
        method(ids)
    return seen[0], seen[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_the_stock_modules(family: str, clip_of: Callable[[str], ClipModel]) -> None:
    """Embeddings and hidden states at every position are those inside the library's own module."""
    clip = clip_of(family)
    ids = ids_of(clip)
    entered, left = stock_hidden(clip, ids)
    rows = embed_ids(clip, ids)
    assert torch.allclose(rows, entered, atol=1e-6)
    found = prepare_embedding_tower(clip, torch.float32, "cpu").fn(rows)
    assert torch.allclose(found, left, atol=2e-5)


@pytest.mark.parametrize("family", ["open_clip", "transformers siglip"])
def test_rows_need_not_be_words(family: str, clip_of: Callable[[str], ClipModel]) -> None:
    """A vector that is no token, spliced in after the first position, gives what the stock module gives."""
    clip = clip_of(family)
    ids = ids_of(clip)
    rows = embed_ids(clip, ids)
    vector = torch.randn(len(rows), 1, rows.shape[2], generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows[:, :1], 5 * vector, rows[:, 1:-1]], dim=1)
    _, left = stock_hidden(clip, ids, given=rows)
    found = prepare_embedding_tower(clip, torch.float32, "cpu").fn(rows)
    assert torch.allclose(found, left, atol=2e-5)


@pytest.mark.parametrize("family", ["transformers text", "transformers siglip"])
def test_last_attention_is_the_stock_modules(family: str, clip_of: Callable[[str], ClipModel]) -> None:
    """The mean over heads of what the library's own module reports for its last block; rows sum to one."""
    clip = clip_of(family)
    assert clip.text is not None
    module: Any = copy.deepcopy(clip.text.module)
    module = getattr(module, "text_model", module)
    module.set_attn_implementation("eager")
    ids = ids_of(clip)
    with torch.no_grad():
        wanted = module(ids, output_attentions=True).attentions[-1].mean(dim=1)
    found = last_attention(clip, embed_ids(clip, ids))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(found.sum(dim=-1), torch.ones(found.shape[:2]))


@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_gives_the_features(family: str, clip_of: Callable[[str], ClipModel]) -> None:
    """Hidden states read at the end position and projected are the text features."""
    clip = clip_of(family)
    ids = ids_of(clip)
    hidden = prepare_embedding_tower(clip, torch.float32, "cpu").fn(embed_ids(clip, ids))
    pooled = pool_hidden_states(clip, hidden, end_positions(clip, ids))
    assert torch.allclose(pooled, encode_texts(clip, TEXTS), atol=1e-4)


@pytest.mark.parametrize("family", ["open_clip", "transformers siglip"])
def test_the_table_holds_every_token_without_its_position(
    family: str, clip_of: Callable[[str], ClipModel]
) -> None:
    """Looked up in the table and moved to their positions, tokens are what enters the first block."""
    clip = clip_of(family)
    ids = ids_of(clip)
    positions = embed_ids(clip, torch.zeros_like(ids[:1])) - token_table(clip)[0]
    assert torch.allclose(token_table(clip)[ids] + positions, embed_ids(clip, ids), atol=1e-6)


def test_tokens_are_read_back_as_text(clip_of: Callable[[str], ClipModel]) -> None:
    """Ids between start and end token give the text; a tokenizer that cannot decode gives numbers."""
    clip = clip_of("open_clip")
    assert clip.text is not None
    spoken = attrs.evolve(clip, text=attrs.evolve(clip.text, tokenizer=ClipTokenizer(16)))
    ids = ClipTokenizer(16)([TEXTS[2]])[0]
    assert decode_ids(spoken, ids[1 : int(ids.argmax())].tolist()) == TEXTS[2]
    mute = attrs.evolve(clip, text=attrs.evolve(clip.text, tokenizer=lambda texts: ids[None]))
    assert decode_ids(mute, [5, 7]) == "#5 #7"


def test_only_causal_towers_may_be_cut(clip_of: Callable[[str], ClipModel]) -> None:
    """Cut rows of a causal tower give the same hidden states; a bidirectional tower refuses them."""
    causal, both = clip_of("open_clip"), clip_of("transformers siglip")
    assert is_causal(causal)
    assert not is_causal(both)
    rows = embed_ids(causal, ids_of(causal))
    tower = prepare_embedding_tower(causal, torch.float32, "cpu")
    assert torch.allclose(tower.fn(rows[:, :7]), tower.fn(rows)[:, :7], atol=1e-5)
    with pytest.raises(UsageError, match="32 to 32 tokens"):
        prepare_embedding_tower(both, torch.float32, "cpu").fn(embed_ids(both, ids_of(both))[:, :7])


def test_padding_with_the_end_token_keeps_the_features(clip_of: Callable[[str], ClipModel]) -> None:
    """After the end token stand end tokens, and the feature is the same; SigLIP's padding stays."""
    clip, siglip = clip_of("open_clip"), clip_of("transformers siglip")
    ids = ids_of(clip)
    padded = pad_with_end(clip, ids)
    ends = end_positions(clip, ids)
    for row, before, end in zip(padded, ids, ends):
        assert torch.equal(row[: end + 1], before[: end + 1])
        assert (row[end:] == before[end]).all()
    assert torch.equal(end_positions(clip, padded), ends)
    assert torch.equal(pad_with_end(siglip, ids), ids)


def test_gradients_reach_the_rows(clip_of: Callable[[str], ClipModel]) -> None:
    """The gradient agrees with a central difference."""
    clip = clip_of("open_clip")
    tower = prepare_embedding_tower(clip, torch.float32, "cpu")
    rows = embed_ids(clip, ids_of(clip))
    direction = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))
    leaf = rows.clone().requires_grad_()
    (tower.fn(leaf) * weight).sum().backward()
    assert leaf.grad is not None
    step = 1e-2
    ahead, behind = (tower.fn(rows + sign * step * direction) for sign in (1, -1))
    slope = ((ahead - behind) * weight).sum() / (2 * step)
    assert float((leaf.grad * direction).sum()) == pytest.approx(float(slope), rel=0.02)


def test_equality_of_towers_is_bit_for_bit_across_libraries() -> None:
    """The same text tower saved with and without the rest is the same; one changed bit makes another."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        vocab_size=49408,
    )
    module = CLIPTextModel(config)
    one = clip_from_transformers(module, name="one")
    assert same_text_tower(one, clip_from_transformers(module, name="two"))
    other = copy.deepcopy(module)
    with torch.no_grad():
        weight = dict(other.named_parameters())
        name = next(n for n in weight if n.endswith("layers.1.mlp.fc2.bias"))
        weight[name][3] += 1e-7
    assert not same_text_tower(one, clip_from_transformers(other, name="three"))


def test_a_tower_that_hides_its_embeddings_is_not_applicable(clip_of: Callable[[str], ClipModel]) -> None:
    """Without a text tower there is nothing to run, and it says so."""
    clip = attrs.evolve(clip_of("open_clip"), text=None)
    with pytest.raises(NotApplicableError, match="no text tower"):
        prepare_embedding_tower(clip, torch.float32, "cpu")
