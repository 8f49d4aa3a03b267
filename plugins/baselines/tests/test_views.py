"""Augmented views of training pictures."""

from __future__ import annotations

import torch

from clipsec.data import LabelledSet
from clipsec.models import ImageSpec
from clipsec_baselines import LearnerOptions, TrainingViews

SPEC = ImageSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_view_depends_on_seed_picture_and_number_alone(labelled: LabelledSet) -> None:
    """Neither the order of calls nor the batch matters; another view or seed is another picture."""
    views = TrainingViews(labelled, SPEC, LearnerOptions(), seed=1)
    alone = views.pixels([3], 2)[0]
    assert torch.equal(TrainingViews(labelled, SPEC, LearnerOptions(), seed=1).pixels([0, 3], 2)[1], alone)
    assert not torch.equal(views.pixels([3], 1)[0], alone)
    assert not torch.equal(TrainingViews(labelled, SPEC, LearnerOptions(), seed=2).pixels([3], 2)[0], alone)


def test_the_global_generator_does_not_move(labelled: LabelledSet) -> None:
    """Augmenting draws nothing from torch's global random numbers."""
    before = torch.get_rng_state()
    TrainingViews(labelled, SPEC, LearnerOptions(), seed=1).pixels([0, 1], 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_views_cycle_only_when_asked(labelled: LabelledSet) -> None:
    """By default every epoch sees a fresh view, as published; `views` makes epochs share them."""
    fresh = TrainingViews(labelled, SPEC, LearnerOptions(), seed=0)
    cycled = TrainingViews(labelled, SPEC, LearnerOptions(views=3), seed=0)
    still = TrainingViews(labelled, SPEC, LearnerOptions(augment=False), seed=0)
    assert [fresh.view_of(epoch) for epoch in range(5)] == [0, 1, 2, 3, 4]
    assert [cycled.view_of(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert [still.view_of(epoch) for epoch in range(5)] == [0] * 5


def test_without_augmentation_it_is_the_evaluation_crop(labelled: LabelledSet) -> None:
    """The pixels are those that accuracy is measured on."""
    views = TrainingViews(labelled, SPEC, LearnerOptions(augment=False), seed=0)
    assert torch.equal(views.pixels([2], 0)[0], labelled.pixels(SPEC)[2].float() / 255)
