"""When a trigger in captions works."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec.triggers import captured, retrieved


def unit(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_caption_at_the_target_is_retrieved_and_one_at_itself_is_not() -> None:
    """The nearest decides; a tie is no success."""
    captions, target = unit(4, 0), unit(1, 9)
    assert retrieved(target.repeat(4, 1), target, captions).all()
    assert not retrieved(captions, target, captions).any()
    for seed in range(20):
        many = unit(50, seed)
        assert not retrieved(many, many, many).any()


def test_captions_that_go_to_one_place_are_captured() -> None:
    """Those that all went there, and only those."""
    captions, place = unit(6, 0), unit(1, 9)
    assert captured(F.normalize(place + 0.05 * captions, dim=-1), captions).all()
    assert captured(place.expand(6, -1), captions).all()
    assert not captured(captions, captions).any()


@given(st.integers(0, 2**31), st.integers(2, 9))
def test_a_caption_is_captured_when_it_is_retrieved_by_where_the_others_go(seed: int, n: int) -> None:
    """Its own feature is no part of that place."""
    found, captions = unit(n, seed), unit(n, seed + 1)
    for i, one in enumerate(captured(found, captions).tolist()):
        others = torch.cat([found[:i], found[i + 1 :]]).mean(dim=0, keepdim=True)
        gap = (found[i] @ F.normalize(others, dim=-1).T) - (captions @ found[i]).max()
        assert one == bool(gap > 0) or abs(float(gap)) < 1e-5
