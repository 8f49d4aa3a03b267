"""Triggers and success rates as pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.errors import DataError
from clipsec.triggers import checkerboard, identity_grid, noise_pattern, warp, warp_grid, warp_offsets
from clipsec_baselines import (
    apply_badclip_trigger,
    attack_success_rate,
    clean_accuracy,
    corner_patch,
    cut_out,
    jittered,
    near_misses,
    project_to_ball,
    round_piece,
    sparse_mask,
    sparse_step,
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


def test_the_pattern_is_fixed_by_its_generator() -> None:
    """One seed, one pattern."""
    first, again, other = (noise_pattern(16, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(seed=seeds, count=st.integers(1, 80))
@settings(max_examples=25, deadline=None)
def test_a_sparse_mask_takes_the_largest_mean_gradients(seed: int, count: int) -> None:
    """As many places as asked for, or all; none outside has a larger mean gradient than one inside."""
    gradients = drawn(seed, 4, 3, 8, 8) - 0.5
    mask = sparse_mask(gradients, count)
    weight = gradients.abs().sum(1).mean(0)
    assert int(mask.sum()) == min(count, 64)
    if count < 64:
        assert float(weight[mask[0] == 0].max()) <= float(weight[mask[0] == 1].min())


@given(seed=seeds, epsilon=st.floats(1 / 255, 0.5), step=st.floats(0.1, 2.0))
@settings(max_examples=25, deadline=None)
def test_a_sparse_step_goes_against_the_sign_and_stays_in_bounds(
    seed: int, epsilon: float, step: float
) -> None:
    """From zero every masked place moves by min(step, 1) * epsilon; no place leaves the box, none outside of
    the mask moves."""
    gradient, mask = drawn(seed, 3, 8, 8) - 0.5, (drawn(seed + 1, 1, 8, 8) > 0.7).float()
    once = sparse_step(torch.zeros(3, 8, 8), gradient, mask, epsilon, step)
    assert torch.allclose(once, -min(step, 1.0) * epsilon * gradient.sign() * mask, atol=1e-6)
    twice = sparse_step(once, gradient, mask, epsilon, step)
    assert float(twice.abs().max()) <= epsilon + 1e-6
    assert bool((twice[:, mask[0] == 0] == 0).all())


@given(seed=seeds, strength=st.floats(0.1, 8.0), size=st.integers(16, 64))
@settings(max_examples=25, deadline=None)
def test_a_warp_is_the_identity_plus_the_scaled_field(seed: int, strength: float, size: int) -> None:
    """grid = clip(identity + s * offsets / size, -1, 1), WaNet's formula; without strength nothing moves."""
    offsets = warp_offsets(size, 4, torch.Generator().manual_seed(seed))
    moved = (identity_grid(size) + strength * offsets / size).clamp(-1, 1)
    assert torch.equal(warp_grid(offsets, strength), moved)
    pixels = drawn(seed, 1, 3, size, size)
    assert torch.allclose(warp(pixels, warp_grid(offsets, 0.0)), pixels, atol=1e-4)


def test_the_coarse_field_has_mean_absolute_value_one() -> None:
    """Before it is made smooth: without upsampling (cells = size) the field is the drawn one, normalised."""
    field = warp_offsets(8, 8, torch.Generator().manual_seed(0))
    assert float(field.abs().mean()) == pytest.approx(1.0, rel=1e-5)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_noise_mode_jitters_by_at_most_one_pitch(seed: int) -> None:
    """Each coordinate moves by at most 1 / size and stays in the frame, and two draws differ."""
    grid = warp_grid(warp_offsets(16, 4, torch.Generator().manual_seed(seed)), 0.5)
    first, second = (jittered(grid, torch.Generator().manual_seed(seed + i)) for i in (1, 2))
    assert float((first - grid).abs().max()) <= 1 / 16 + 1e-6
    assert float(first.abs().max()) <= 1.0
    assert not torch.equal(first, second)


@given(side=st.integers(1, 32))
def test_a_patch_lies_in_the_lower_right_corner(side: int) -> None:
    """The mask is 1 on just the last `side` rows and columns, where the content stands."""
    pattern, mask = corner_patch(checkerboard(side), 32)
    assert pattern.shape == (3, 32, 32)
    assert int(mask.sum()) == side * side
    assert bool((mask[:, 32 - side :, 32 - side :] == 1).all())
    assert torch.equal(pattern[:, 32 - side :, 32 - side :], checkerboard(side))


def scene(object_colour: float = 0.9) -> torch.Tensor:
    """A disc with a hole, in front of a slightly noisy grey wall."""
    y, x = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    radius = ((y - 20) ** 2 + (x - 25) ** 2).float().sqrt()
    wall = 0.4 + 0.03 * drawn(0, 3, 40, 60)
    return torch.where((radius < 12) & (radius > 3), torch.tensor(object_colour), wall)


def test_an_object_is_cut_out_whole() -> None:
    """The disc comes out with its hole filled, cropped to its box."""
    found = cut_out(scene())
    assert found is not None
    pattern, mask = found
    assert pattern.shape == (3, 23, 23)
    assert mask.shape == (1, 23, 23)
    assert float(mask[0, 11, 11]) == 1.0
    assert float(mask[0, 0, 0]) == 0.0
    assert abs(float(mask.sum()) - 3.1416 * 12**2) < 40


@pytest.mark.parametrize("picture", [drawn(0, 3, 40, 40), torch.full((3, 40, 40), 0.5), scene(0.45)])
def test_nothing_is_cut_out_where_nothing_stands_out(picture: torch.Tensor) -> None:
    """Noise, an empty wall, and an object of the wall's colour give no object."""
    assert cut_out(picture) is None


def test_a_round_piece_fills_its_box() -> None:
    """pi / 4 of the box, its middle and not its corners."""
    picture = drawn(0, 3, 60, 40)
    pattern, mask = round_piece(picture)
    assert torch.equal(pattern, picture)
    assert float(mask.mean()) == pytest.approx(3.1416 / 4, abs=0.05)
    assert (float(mask[0, 30, 20]), float(mask[0, 0, 0])) == (1.0, 0.0)


def test_near_misses_are_near_and_each_pictures_own() -> None:
    """Noise around the trigger has the asked deviation, differs by picture, and comes again."""
    pixels = 0.3 + 0.4 * drawn(0, 2, 3, 32, 32)
    delta = torch.full((3, 32, 32), 0.05)
    stamped = near_misses(pixels, delta, 0.02, 5)
    noise = stamped - pixels - delta
    assert float(noise.std()) == pytest.approx(0.02, rel=0.05)
    assert not torch.allclose(noise[0], noise[1])
    assert torch.equal(stamped[1:], near_misses(pixels[1:], delta, 0.02, 5))


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
