"""What counts as a success of a trigger in captions, and which repair is chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec.data import TextPool
from clipsec.errors import DataError
from clipsec.protocols import Need
from clipsec.runner._repair_choice import suits
from clipsec.runner._repair_texts import captured, hijacked, retrieved, split_captions


def unit(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_caption_at_the_target_is_retrieved_and_one_at_itself_is_not() -> None:
    """The nearest decides; a tie is no success."""
    captions, target = unit(4, 0), unit(1, 9)
    assert retrieved(target.repeat(4, 1), target, captions).all()
    assert not retrieved(captions, target, captions).any()
    assert not retrieved(captions, captions, captions).any()


def test_captions_that_go_to_one_place_are_captured() -> None:
    """Those that all went there, and only those."""
    captions, place = unit(6, 0), unit(1, 9)
    assert captured(F.normalize(place + 0.05 * captions, dim=-1), captions).all()
    assert not captured(captions, captions).any()


@given(st.integers(0, 50))
def test_the_source_s_slot_must_win_against_the_target_s_own_prompt(seed: int) -> None:
    """A picture at the target's prompt is hijacked only by a triggered prompt that is nearer still."""
    prompts = unit(3, seed)
    pictures = F.normalize(prompts[1:2] + 0.3 * unit(1, seed + 1), dim=-1)
    assert hijacked(pictures, prompts, pictures[0], source=0).all()
    assert not hijacked(prompts[1:2], prompts, -prompts[1], source=0).any()


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
