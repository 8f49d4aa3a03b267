"""What counts as a success of a trigger in captions, and which repair is chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec.data import TextPool
from clipsec.errors import ContractError, DataError
from clipsec.models import Suspect, clip_from_open_clip, embed_ids, text_ends, token_table
from clipsec.protocols import FoundTokens, Need
from clipsec.runner._repair_choice import suits
from clipsec.runner._repair_texts import Side, hijacked, likeness, split_captions
from clipsec.scheduler import Scheduler

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CAPTIONS = tuple(f"a {size} {thing}" for size in ("big", "small") for thing in ("dog", "boat", "house"))


@pytest.fixture(scope="module")
def tiny() -> Suspect:
    """A random CLIP."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.CLIP(**CONFIG)
    return Suspect(name="tiny", kind="clip", base=clip_from_open_clip(module, name="tiny", config=CONFIG))


def unit(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(st.integers(0, 50))
def test_the_source_s_slot_must_win_against_the_target_s_own_prompt(seed: int) -> None:
    """A picture at the target's prompt is hijacked only by a triggered prompt that is nearer still."""
    prompts = unit(3, seed)
    pictures = F.normalize(prompts[1:2] + 0.3 * unit(1, seed + 1), dim=-1)
    assert hijacked(pictures, prompts, pictures[0], source=0).all()
    assert not hijacked(prompts[1:2], prompts, -prompts[1], source=0).any()


@pytest.mark.parametrize("site", ["start", "end"])
def test_vectors_and_tokens_are_put_in_alike(site: str, tiny: Suspect) -> None:
    """A vector that is a token's embedding with its position gives the feature of that token there."""
    side = Side(tiny, tiny, Scheduler())
    assert tiny.base.text is not None
    captions = CAPTIONS[:3]  # of one length, so that the end is at one position
    ids = tiny.base.text.tokenizer(list(captions))
    at = 1 if site == "start" else int(text_ends(tiny.base, ids)[0])
    table = token_table(tiny.base)
    position = embed_ids(tiny.base, ids)[0, at] - table[ids[0, at]]
    by_token = side.inserted(FoundTokens(ids=(777,), site=site), captions)
    by_vector = side.inserted(FoundTokens(vectors=(table[777] + position)[None], site=site), captions)
    torch.testing.assert_close(by_token, by_vector, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(by_token, side.texts(captions), atol=1e-3)


def test_what_is_broken_reads_as_no_likeness(tiny: Suspect) -> None:
    """The same model is alike, one without a tower is an error, another image tower says nothing."""
    same = likeness(tiny, tiny, None, CAPTIONS)
    assert same is not None
    assert same.to_suspect == pytest.approx(1, abs=1e-5)
    base = tiny.base
    assert base.visual is not None
    other = attrs.evolve(base, visual=attrs.evolve(base.visual, digest="another"))
    assert likeness(tiny, Suspect(name="o", kind="clip", base=other), None, CAPTIONS) is None
    for lost in (attrs.evolve(base, text=None), attrs.evolve(base, visual=None)):
        with pytest.raises(ContractError, match="lacks a tower"):
            likeness(tiny, Suspect(name="o", kind="clip", base=lost), None, CAPTIONS)


@given(st.integers(40, 1200), st.integers(0, 5))
def test_captions_to_measure_on_are_not_learned_from(n: int, seed: int) -> None:
    """Two parts without a common text, the same for a seed."""
    pool = TextPool(tuple(f"caption {i % 1000}" for i in range(n)))
    learn, kept = split_captions(pool, seed)
    assert not set(learn.texts) & set(kept)
    assert set(learn.texts) | set(kept) == set(pool.texts)
    assert (learn.texts, kept) == (split_captions(pool, seed)[0].texts, split_captions(pool, seed)[1])


def test_too_few_captions_are_refused() -> None:
    """Nothing could be said of them."""
    with pytest.raises(DataError, match="a repair needs"):
        split_captions(TextPool(("one", "two", "two")), 0)


@pytest.mark.parametrize(
    ("needs", "told", "prompts", "expected"),
    [
        ({Need.PROMPT_HEAD, Need.TEXT_TOWER}, True, True, True),
        ({Need.TEXT_TOWER}, True, True, False),
        ({Need.TEXT_TOWER}, True, False, True),
        ({Need.PROMPT_HEAD, Need.TEXT_TOWER}, True, False, False),
        ({Need.TEXT_TOWER}, False, False, False),
        ({Need.TEXT_TOWER, Need.IMAGE_TOWER}, True, False, False),
    ],
)
def test_a_repair_suits_models_of_its_kind(
    needs: set[Need], told: bool, prompts: bool, expected: bool
) -> None:
    """Learned prompts and delivered towers have repairs of their own; one that starts from a finding needs
    one."""
    made = SimpleNamespace(needs=frozenset(needs))
    provides = {Need.TEXT_TOWER} | ({Need.PROMPT_HEAD} if prompts else set())
    suspect: Any = SimpleNamespace(provides=frozenset(provides), prompts=object() if prompts else None)
    assert suits(made, suspect, told=told) == expected
    assert not suits(SimpleNamespace(needs=frozenset(needs), needs_finding=False), suspect, told=True)
