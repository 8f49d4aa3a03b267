from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipsec_clip_inspector._evidence import trigger_picture
from clipsec_clip_inspector._objective import apply_trigger, margins, project

finite = st.floats(-50, 50, allow_nan=False, width=32)


@given(arrays(np.float32, (5, 4), elements=finite), st.integers(0, 3))
def test_margin_is_best_other_minus_target(logits: np.ndarray, target: int) -> None:
    """The margin is the strongest other logit minus the target's, row by row."""
    expected = np.delete(logits, target, axis=1).max(axis=1) - logits[:, target]
    assert np.array_equal(margins(torch.from_numpy(logits), target).numpy(), expected)


@given(arrays(np.float32, (5, 4), elements=finite), st.integers(0, 3))
def test_margin_is_negative_exactly_when_target_wins(logits: np.ndarray, target: int) -> None:
    """A negative margin is a strict win of the target."""
    wins = (logits[:, target : target + 1] > np.delete(logits, target, axis=1)).all(axis=1)
    assert np.array_equal(margins(torch.from_numpy(logits), target).numpy() < 0, wins)


def test_margin_has_no_hinge() -> None:
    """A target that wins clearly goes on lowering the loss."""
    assert margins(torch.tensor([[0.0, 30.0]]), 1).item() == -30.0


def test_margin_leaves_the_logits_alone() -> None:
    """The competitor mask is not written into the caller's tensor."""
    logits = torch.randn(3, 4)
    before = logits.clone()
    margins(logits, 2)
    assert torch.equal(logits, before)


@given(st.floats(0.001, 1), st.integers(0, 2**31))
def test_triggered_pictures_stay_in_range(epsilon: float, seed: int) -> None:
    """After projection the trigger is in its ball and pictures are in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(3, 4, 4, generator=generator)
    project(delta, epsilon)
    assert delta.abs().max() <= torch.tensor(epsilon, dtype=torch.float32)
    triggered = apply_trigger(torch.rand(2, 3, 4, 4, generator=generator), delta)
    assert triggered.min() >= 0
    assert triggered.max() <= 1


def test_trigger_picture_uses_the_whole_range() -> None:
    """A saturated trigger shows as black and white, zero as mid grey."""
    import io

    from PIL import Image

    delta = torch.tensor([-0.1, 0.0, 0.1]).view(1, 1, 3).expand(3, 3, 3)
    picture = np.asarray(Image.open(io.BytesIO(trigger_picture(delta, 0.1))))
    assert set(np.unique(picture)) == {0, 128, 255}
    assert picture.shape[0] >= 255
