"""Stamps as formulas."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.triggers import add, blend, cover, paste, picture_generator, placements, warp

seeds = st.integers(min_value=0, max_value=2**31)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=seeds, epsilon=st.floats(0.0, 0.5))
@settings(max_examples=25, deadline=None)
def test_adding_moves_no_pixel_further_than_the_delta(seed: int, epsilon: float) -> None:
    """Clipping never moves a pixel further than asked."""
    pixels, delta = drawn(seed, 2, 3, 8, 8), (2 * drawn(seed + 1, 3, 8, 8) - 1) * epsilon
    assert float((add(pixels, delta) - pixels).abs().max()) <= epsilon + 1e-6


@given(seed=seeds, ratio=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_blending_is_a_convex_combination(seed: int, ratio: float) -> None:
    """Every blended pixel lies between the picture and the pattern; a ratio of 1 is the pattern."""
    pixels, pattern = drawn(seed, 2, 3, 8, 8), drawn(seed + 1, 3, 8, 8)
    blended = blend(pixels, pattern, ratio)
    assert bool((blended >= torch.minimum(pixels, pattern) - 1e-6).all())
    assert bool((blended <= torch.maximum(pixels, pattern) + 1e-6).all())
    assert torch.allclose(blend(pixels, pattern, 1.0), pattern.expand_as(pixels))


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_a_mask_says_where(seed: int) -> None:
    """Where the mask is 1 stands the pattern, where it is 0 the picture."""
    pixels, pattern = drawn(seed, 2, 3, 8, 8), drawn(seed + 1, 3, 8, 8)
    mask = (drawn(seed + 2, 1, 8, 8) > 0.5).float()
    covered = cover(pixels, pattern, mask)
    assert torch.equal(covered * mask, pattern.expand_as(pixels) * mask)
    assert torch.equal(covered * (1 - mask), pixels * (1 - mask))


@given(seed=seeds, across=st.integers(-3, 3), down=st.integers(-3, 3))
@settings(max_examples=25, deadline=None)
def test_a_shifted_grid_shifts_the_picture(seed: int, across: int, down: int) -> None:
    """A displacement of whole pixels moves the content by just that, with x before y."""
    size, pixels = 9, drawn(seed, 1, 3, 9, 9)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    step = 2 / (size - 1)
    moved = warp(pixels, torch.stack([x + across * step, y + down * step], dim=-1))
    inside = (slice(max(0, -down), size - max(0, down)), slice(max(0, -across), size - max(0, across)))
    source = (slice(max(0, down), size + min(0, down)), slice(max(0, across), size + min(0, across)))
    assert torch.allclose(moved[..., inside[0], inside[1]], pixels[..., source[0], source[1]], atol=1e-5)


@given(
    seed=seeds,
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    sizes=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)).map(sorted),
)
@settings(max_examples=40, deadline=None)
def test_objects_lie_inside_at_sizes_that_were_asked_for(
    seed: int, height: int, width: int, sizes: list[float]
) -> None:
    """The longer side is within the asked share of the frame (to a pixel), the whole inside of it."""
    frame, (smallest, largest) = 20, sizes
    for at in placements(drawn(seed, 3, 3, frame, frame), (height, width), smallest, largest, seed):
        assert 0 <= at.top <= frame - at.height
        assert 0 <= at.left <= frame - at.width
        assert smallest * frame - 1 <= max(at.height, at.width) <= largest * frame + 1


def test_objects_vary_from_picture_to_picture_and_not_from_call_to_call() -> None:
    """Twenty pictures give many places; one picture, asked again, gives its own."""
    pixels = drawn(0, 20, 3, 16, 16)
    first = placements(pixels, (5, 4), 0.2, 0.6, 1)
    assert first == placements(pixels.flip(0), (5, 4), 0.2, 0.6, 1)[::-1]
    assert len(set(first)) > 15
    assert first != placements(pixels, (5, 4), 0.2, 0.6, 2)


def test_pasting_changes_only_what_the_object_covers() -> None:
    """Outside of its place the picture stays bit-equal; an opaque grey object is grey there."""
    pixels, pattern, mask = drawn(0, 4, 3, 16, 16), torch.full((3, 6, 4), 0.25), torch.ones(1, 6, 4)
    pasted = paste(pixels, pattern, mask, 0.3, 0.5, 9)
    for before, after, at in zip(pixels, pasted, placements(pixels, (6, 4), 0.3, 0.5, 9)):
        window = torch.zeros(16, 16, dtype=torch.bool)
        window[at.top : at.top + at.height, at.left : at.left + at.width] = True
        assert torch.equal(before[:, ~window], after[:, ~window])
        assert torch.allclose(after[:, window], torch.tensor(0.25), atol=1e-6)


def test_a_picture_in_bytes_draws_as_the_same_picture_in_floats() -> None:
    """Rounding noise below half a grey level does not change what is drawn for a picture."""
    picture = (drawn(0, 3, 8, 8) * 255).round() / 255
    noisy = picture + 1e-4
    first, second = (torch.rand(4, generator=picture_generator(each, 3)) for each in (picture, noisy))
    assert torch.equal(first, second)
