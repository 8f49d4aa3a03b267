"""Triggers and success rates as pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.errors import DataError
from clipsec_baselines import (
    apply_badclip_trigger,
    attack_success_rate,
    blend,
    clean_accuracy,
    noise_pattern,
    project_to_ball,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
seeds = st.integers(min_value=0, max_value=2**31)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(seed=seeds, epsilon=st.floats(1 / 255, 32 / 255), size=st.floats(0.01, 10))
def test_a_projected_trigger_stays_in_the_ball_and_pictures_in_range(
    seed: int, epsilon: float, size: float
) -> None:
    """No pixel moves by more than epsilon, and none leaves [0, 1], however large the step was."""
    trigger = project_to_ball((drawn(seed, 3, 8, 8) - 0.5) * size, epsilon, CLIP_STD)
    pixels = drawn(seed + 1, 2, 3, 8, 8)
    stamped = apply_badclip_trigger(pixels, trigger, CLIP_STD)
    assert float((stamped - pixels).abs().max()) <= epsilon + 1e-6
    assert float(stamped.min()) >= 0.0
    assert float(stamped.max()) <= 1.0


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_pixel_form_equals_the_papers_form_in_normalised_units(seed: int) -> None:
    """Adding after normalisation and clamping to the normalised 0 and 1 is the same picture."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    pixels, trigger = drawn(seed, 2, 3, 8, 8), drawn(seed + 1, 3, 8, 8) - 0.5
    normalised = (pixels - mean) / std
    published = torch.minimum(torch.maximum(normalised + trigger, (0 - mean) / std), (1 - mean) / std)
    ours = apply_badclip_trigger(pixels, trigger, CLIP_STD)
    assert torch.allclose((ours - mean) / std, published, atol=1e-5)


@given(seed=seeds, epsilon=st.floats(1 / 255, 0.5))
@settings(max_examples=25, deadline=None)
def test_projection_changes_nothing_inside_the_ball(seed: int, epsilon: float) -> None:
    """A trigger that is already inside comes back as it was; projecting twice is projecting once."""
    once = project_to_ball((drawn(seed, 3, 8, 8) - 0.5) * 4, epsilon, CLIP_STD)
    assert torch.equal(project_to_ball(once, epsilon, CLIP_STD), once)


@given(seed=seeds, ratio=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_blending_is_a_convex_combination(seed: int, ratio: float) -> None:
    """Every blended pixel lies between the picture and the pattern; a ratio of 1 is the pattern."""
    pixels, pattern = drawn(seed, 2, 3, 8, 8), noise_pattern(8, torch.Generator().manual_seed(seed))
    blended = blend(pixels, pattern, ratio)
    assert bool((blended >= torch.minimum(pixels, pattern) - 1e-6).all())
    assert bool((blended <= torch.maximum(pixels, pattern) + 1e-6).all())
    assert torch.allclose(blend(pixels, pattern, 1.0), pattern.expand_as(pixels))


def test_the_pattern_is_fixed_by_its_generator() -> None:
    """One seed, one pattern."""
    first, again, other = (noise_pattern(16, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_success_leaves_out_pictures_of_the_target() -> None:
    """Only pictures of other classes can succeed: 1 of 2 here, although 3 of 4 are answered with class 1."""
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    rate = attack_success_rate(logits, torch.tensor([1, 1, 0, 0]), target=1)
    assert (rate.successes, rate.n, rate.value) == (1, 2, 0.5)
    assert rate.interval.low < 0.5 < rate.interval.high


def test_success_over_target_pictures_alone_is_an_error() -> None:
    """With nothing but target pictures there is no success rate, and no silent 0 or 1."""
    with pytest.raises(DataError):
        attack_success_rate(torch.eye(2), torch.tensor([1, 1]), target=1)


def test_accuracy_counts_the_largest_logit() -> None:
    """2 of 3 right; without pictures there is an error."""
    rate = clean_accuracy(torch.eye(3), torch.tensor([0, 1, 0]))
    assert (rate.successes, rate.n) == (2, 3)
    with pytest.raises(DataError):
        clean_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
