"""The losses against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec.models import clip_loss
from clipsec_repairs import (
    Encoded,
    anchor_loss,
    cleanclip_loss,
    par_loss,
    perturbation,
    similarity,
    wanted,
)


def unit(n: int, seed: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def encoded(n: int, seed: int, length: int = 4) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    return Encoded(torch.randn(n, length, 5, generator=generator), torch.randn(n, 6, generator=generator))


@given(st.integers(2, 6), st.integers(0, 50))
def test_with_groups_of_one_it_is_clip_s_loss(n: int, seed: int) -> None:
    """The symmetric cross-entropy with the diagonal as answer."""
    images, texts = unit(n, seed), unit(n, seed + 1)
    logits, right = 7 * images @ texts.T, torch.arange(n)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    torch.testing.assert_close(clip_loss(images, texts, right, 7.0), expected)


def test_pairs_of_a_group_are_right_for_each_other() -> None:
    """Two pictures of one class with one caption cost as little as they can, whichever text is whose."""
    images, texts = unit(1, 0).repeat(2, 1), unit(1, 0).repeat(2, 1)
    groups = torch.tensor([3, 3])
    assert clip_loss(images, texts, groups, 50.0).item() == pytest.approx(torch.log(torch.tensor(2.0)).item())
    swapped = clip_loss(images, texts.flip(0), groups, 50.0)
    torch.testing.assert_close(swapped, clip_loss(images, texts, groups, 50.0))


@given(st.floats(0.01, 4), st.integers(0, 50))
def test_each_tower_is_pushed_until_its_threshold(tau: float, seed: int) -> None:
    """L_CLIP - (1[S_V <= tau] S_V + 1[S_T <= tau] S_T) / 2."""
    images, texts, groups = unit(5, seed), unit(5, seed + 1), torch.arange(5)
    before = unit(5, seed + 2), unit(5, seed + 3)
    moved = [float((now - old).pow(2).sum(1).mean()) for now, old in zip((images, texts), before)]
    expected = float(clip_loss(images, texts, groups, 9.0)) - sum(s for s in moved if s <= tau) / 2
    assert float(par_loss(images, texts, before, groups, 9.0, tau)) == pytest.approx(expected, abs=1e-5)
    assert 0 <= float(perturbation(images, before[0])) <= 4 + 1e-5


def test_what_is_pushed_moves_away() -> None:
    """A step down the loss moves texts further from where the poisoned model has them."""
    old = unit(4, 1)
    texts = (old + 0.01 * unit(4, 2)).requires_grad_()
    images = unit(4, 3)
    par_loss(images, texts, (images, old), torch.arange(4), 0.0, 2.15).backward()
    assert texts.grad is not None
    after = texts.detach() - 0.1 * texts.grad
    assert perturbation(after, old) > perturbation(texts.detach(), old)


@given(st.floats(0, 3), st.integers(0, 50))
def test_cleanclip_adds_the_losses_within_each_side(weight: float, seed: int) -> None:
    """L_CLIP + weight (InfoNCE(I, view) + InfoNCE(T, view)) / 2."""
    images, texts, views, groups = unit(4, seed), unit(4, seed + 1), unit(8, seed + 2), torch.arange(4)
    parts = clip_loss(images, views[:4], groups, 9.0) + clip_loss(texts, views[4:], groups, 9.0)
    expected = clip_loss(images, texts, groups, 9.0) + weight * parts / 2
    found = cleanclip_loss(images, texts, (views[:4], views[4:]), groups, 9.0, weight)
    torch.testing.assert_close(found, expected)


def test_what_is_as_it_should_be_costs_nothing() -> None:
    """The anchor's loss is zero at its aim, and grows with either part."""
    clean, aim = encoded(3, 0), encoded(3, 1)
    assert float(anchor_loss(clean, clean, aim, aim, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(anchor_loss(clean, encoded(3, 5), aim, aim, 2.0)) > 0.1
    apart = float(anchor_loss(clean, clean, encoded(3, 6), aim, 1.0))
    assert float(anchor_loss(clean, clean, encoded(3, 6), aim, 2.0)) == pytest.approx(2 * apart, abs=1e-5)


def test_the_trigger_s_own_positions_do_not_count() -> None:
    """Hidden states are compared where a position came from the caption, with that position's."""
    plain = encoded(2, 0)
    origin = torch.tensor([[0, -1, 1, 2], [0, 1, -1, 2]])
    aim = wanted(plain, origin)
    index = origin.clamp_min(0)[..., None].expand(-1, -1, 5)
    moved = plain.hidden.gather(1, index)
    moved[origin < 0] = 1e3
    assert float(similarity(Encoded(moved, plain.features), aim)) == pytest.approx(1, abs=1e-5)


def test_with_a_reference_the_words_of_a_trigger_keep_their_meaning() -> None:
    """Where the suspect does what the reference does there is nothing to change: y = r(x + t)."""
    plain, triggered = encoded(2, 0), encoded(2, 1)
    origin = torch.arange(4).expand(2, -1)
    aim = wanted(plain, origin, (triggered, plain))
    assert float(similarity(triggered, aim)) == pytest.approx(1, abs=1e-5)
    # Texts that were changed as texts have no positions to compare: features alone count.
    assert float(similarity(triggered, wanted(plain, None, (triggered, plain)))) == pytest.approx(1, abs=1e-5)
