"""The published learning rates."""

from __future__ import annotations

import math

import pytest
import torch

from clipsec_baselines import BadClipOptions, BlendedOptions, LearnerOptions, published, rate_at


def test_the_first_epoch_is_a_constant_warm_up() -> None:
    """Epoch 0 runs at 1e-5, whatever the peak."""
    options = published(LearnerOptions(learning_rate=0.05))
    assert rate_at(0, options) == 1e-5


@pytest.mark.parametrize("epochs", [10, 50, 200])
def test_then_torchs_cosine(epochs: int) -> None:
    """From epoch 1 on the rate is torch's CosineAnnealingLR(T_max = all epochs), one epoch late."""
    options = published(LearnerOptions(epochs=epochs))
    weight = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=0.002)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    for epoch in range(1, epochs):
        assert rate_at(epoch, options) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        cosine.step()
    assert rate_at(epochs - 1, options) == pytest.approx(
        0.001 * (1 + math.cos(math.pi * (epochs - 2) / epochs))
    )


def test_published_defaults() -> None:
    """CoCoOp: "a photo of a", batch 1, 10 epochs. CoOp: 16 random vectors, batch 32, 200 epochs. 16 shots."""
    cocoop, coop = published(LearnerOptions()), published(LearnerOptions(method="CoOp"))
    assert (cocoop.context, cocoop.batch, cocoop.epochs) == ("a photo of a", 1, 10)
    assert (coop.context, coop.n_context, coop.batch, coop.epochs) == ("random", 16, 32, 200)
    for options in (cocoop, coop):
        assert (options.shots, options.learning_rate, options.momentum) == (16, 0.002, 0.9)
        assert (options.weight_decay, options.warmup_epochs, options.warmup_rate) == (5e-4, 1, 1e-5)
        assert options.split == "seen"
        assert options.views is None
    badclip, blended = BadClipOptions(), BlendedOptions()
    assert (badclip.epsilon, badclip.trigger_epochs, badclip.trigger_rate) == (4 / 255, 3, 0.1)
    assert badclip.trigger_rule == "gradient"
    assert (blended.ratio, blended.poison_rate) == (0.2, 0.1)


def test_what_the_user_sets_is_kept() -> None:
    """`published` fills in what is None and nothing else."""
    options = published(LearnerOptions(method="CoOp", epochs=50, batch=8))
    assert (options.epochs, options.batch, options.context) == (50, 8, "random")


@pytest.mark.parametrize("wrong", [{"method": "MaPLe"}, {"epochs": 0}, {"split": "half"}, {"momentum": 1.0}])
def test_impossible_options_are_refused(wrong: dict[str, object]) -> None:
    """Options are checked where they are made."""
    with pytest.raises(ValueError):
        LearnerOptions(**wrong)  # type: ignore[arg-type]


def test_badclip_needs_image_conditioned_prompts() -> None:
    """With CoOp the text features are constants, so that BadCLIP's trigger could not act on them."""
    with pytest.raises(ValueError):
        BadClipOptions(method="CoOp")
