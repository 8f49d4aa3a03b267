"""The triggers against the authors' formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipsec_baselines.detectors._mask import (
    MaskTrigger,
    blend,
    from_tanh,
    mask_size,
    stamp_mask,
    to_tanh,
)
from clipsec_baselines.detectors._pixels import (
    PixelTrigger,
    add_pattern,
    as_delta,
    count_pixels,
    delta_size,
    smooth_count,
    stamp_delta,
)

SHAPE = (3, 4, 5)
free = arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32))
unit = arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
seeds = st.integers(0, 2**31)


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(seed))


@given(unit)
def test_tanh_space_is_inverted(values: np.ndarray) -> None:
    """A start of any values in [0, 1] is met, the ends included."""
    again = from_tanh(to_tanh(torch.from_numpy(values)))
    assert again.numpy() == pytest.approx(values, abs=1e-5)


@given(free)
def test_mask_formula(variable: np.ndarray) -> None:
    """m = tanh(u) / (2 - 1e-7) + 0.5."""
    expected = np.tanh(variable) / (2 - 1e-7) + 0.5
    assert from_tanh(torch.from_numpy(variable)).numpy() == pytest.approx(expected, abs=1e-6)


@given(seeds)
def test_a_mask_blends_one_pattern_into_every_picture(seed: int) -> None:
    """x' = (1 - m) x + m p, within [0, 1]; mask 0 changes nothing, mask 1 leaves nothing."""
    x, mask, pattern = images(seed), torch.rand(1, 4, 5), torch.rand(SHAPE)
    stamped = blend(x, mask, pattern)
    assert torch.allclose(stamped, x + mask * (pattern - x), atol=1e-6)
    assert torch.equal(blend(x, torch.zeros(1, 4, 5), pattern), x)
    assert torch.equal(blend(x, torch.ones(1, 4, 5), pattern), pattern.expand_as(x))


@given(free, free, seeds)
def test_pixel_trigger_formula(added: np.ndarray, removed: np.ndarray, seed: int) -> None:
    """x' = clip(x + clip(P+) - clip(P-), 0, 1)."""
    x = images(seed)
    expected = np.clip(x.numpy() + np.clip(added, 0, 1) - np.clip(removed, 0, 1), 0, 1)
    found = add_pattern(x, torch.from_numpy(added), torch.from_numpy(removed))
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


@given(free, free)
def test_smooth_count_formula(added: np.ndarray, removed: np.ndarray) -> None:
    """Sum over pixels of the largest channel of tanh(P / 10) / (2 - 1e-7) + 0.5, for P+ and P-."""
    expected = sum((np.tanh(p / 10) / (2 - 1e-7) + 0.5).max(axis=0).sum() for p in (added, removed))
    found = smooth_count(torch.from_numpy(added), torch.from_numpy(removed))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_an_empty_pattern_counts_half_a_pixel_twice() -> None:
    """The smooth count of no change is the number of pixels."""
    empty = torch.zeros(SHAPE)
    assert float(smooth_count(empty, empty)) == 20


def test_pixels_are_counted_once_and_small_changes_not_at_all() -> None:
    """Three channels of a pixel are one pixel; less than a grey level or a cancelled change is none."""
    added, removed = torch.zeros(SHAPE), torch.zeros(SHAPE)
    added[:, 0, 0] = 0.5
    added[1, 1, 1] = 0.9 / 255
    removed[2, 2, 2] = 1.1 / 255
    added[0, 3, 3] = removed[0, 3, 3] = 0.7
    added[0, 3, 4] = -2.0
    assert count_pixels(added, removed) == 2


@pytest.mark.parametrize("kind", [MaskTrigger, PixelTrigger])
def test_what_is_saved_stamps_as_what_was_searched(kind: type) -> None:
    """Evidence applied by its own formula gives the search's pictures, and has the size that is reported."""
    trigger = kind.random(SHAPE, torch.Generator().manual_seed(0))
    x, tensors = images(1), trigger.tensors()
    with torch.no_grad():
        searched = trigger.apply(x)
    if kind is MaskTrigger:
        assert torch.allclose(stamp_mask(x, tensors), searched, atol=1e-6)
        assert mask_size(tensors) == pytest.approx(float(trigger.penalty().detach()), rel=1e-5)
    else:
        # Less than a grey level is left out, in each of two patterns.
        assert torch.allclose(stamp_delta(x, as_delta(tensors)), searched, atol=2 / 255)
        assert (delta_size(as_delta(tensors)),) == trigger.counts()


@pytest.mark.parametrize("kind", [MaskTrigger, PixelTrigger])
@pytest.mark.parametrize("start", ["random", "even"])
def test_every_value_of_a_start_feels_the_loss(kind: type, start: str) -> None:
    """No value of either start is where a clip or a saturated tanh lets no gradient through."""
    generator = torch.Generator().manual_seed(0)
    trigger = kind.random(SHAPE, generator) if start == "random" else kind.even(SHAPE)
    trigger.apply(torch.full((1, *SHAPE), 0.3) + torch.rand(1, *SHAPE) / 10).sum().backward()
    # Where random patterns push a picture over its range, clipping stops the gradient, as it should.
    share = [float(v.grad.ne(0).float().mean()) for v in trigger.variables()]
    assert min(share) == 1.0 if (start, kind) != ("random", PixelTrigger) else min(share) > 0.3


def test_the_pixel_reset_leaves_zeroed_values_alive() -> None:
    """After the authors' reset a value that was zeroed still gets the loss's gradient."""
    trigger = PixelTrigger(torch.full(SHAPE, 1e-3), torch.full(SHAPE, -2.0))
    trigger.restart(trigger.tensors())
    assert trigger.counts() == (0.0,)
    trigger.apply(torch.rand(2, *SHAPE)).sum().backward()
    assert all(bool(v.grad.ne(0).all()) for v in trigger.variables())
