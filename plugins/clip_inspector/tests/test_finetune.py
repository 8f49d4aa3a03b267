"""The pure parts of the repair: the loss, the choice of an epoch, the loop on features."""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipsec.protocols import Trigger
from clipsec.triggers import Stamp
from clipsec_clip_inspector._finetune import (
    Part,
    Score,
    Tuned,
    better,
    draw,
    enough,
    finetune,
    rate_at,
    repair_loss,
    scaled_rate,
    score_of,
    soft_labels,
)
from clipsec_clip_inspector._probes import probes
from clipsec_clip_inspector._repair import generic_stamps, noise
from clipsec_clip_inspector._repair_options import RepairOptions

seeds = st.integers(0, 2**31)
shares = st.floats(0, 1)
scores = st.builds(Score, shares, shares, st.one_of(st.floats(0, 10), st.just(math.nan)))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(seeds)
def test_loss_is_half_of_each_cross_entropy(seed: int) -> None:
    """0.5 CE(clean, y) + 0.5 CE(triggered, y); without triggered pictures it is CE(clean, y)."""
    clean, triggered = normal(seed, 2, 6, 4)
    labels = torch.arange(6) % 4
    plain = [-z.log_softmax(1)[range(6), labels].mean() for z in (clean, triggered)]
    torch.testing.assert_close(repair_loss(clean, triggered, labels), (plain[0] + plain[1]) / 2)
    torch.testing.assert_close(repair_loss(clean, None, labels), plain[0])


@given(seeds, shares)
def test_soft_labels_are_probabilities_between_label_and_base(seed: int, share: float) -> None:
    """They sum to one, are the labels at share 0 and the base's answer at share 1."""
    base, labels = normal(seed, 6, 4), torch.arange(6) % 4
    soft = soft_labels(labels, base, share)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    torch.testing.assert_close(soft_labels(labels, base, 0.0), F.one_hot(labels, 4).float())
    torch.testing.assert_close(soft_labels(labels, base, 1.0), base.softmax(1))
    hard = repair_loss(base, base, labels)
    torch.testing.assert_close(repair_loss(base, base, labels, soft_labels(labels, base, 0.0)), hard)


@given(scores, scores, scores, shares)
def test_better_is_an_order_and_accuracy_goes_first(
    one: Score, two: Score, three: Score, floor: float
) -> None:
    """Strict and transitive; what keeps the floor beats what does not, however little succeeds there."""
    assert not better(one, one, floor)
    assert not (better(one, two, floor) and better(two, one, floor))
    if better(one, two, floor) and better(two, three, floor):
        assert better(one, three, floor)
    if one.accuracy >= floor > two.accuracy:
        assert better(one, two, floor)


@given(scores, shares, shares)
def test_training_never_ends_early_at_the_cost_of_accuracy(score: Score, stop: float, floor: float) -> None:
    """Enough: success within the bound and accuracy at the floor; without a bound it is never enough."""
    assert enough(score, stop, floor) == (score.success <= stop and score.accuracy >= floor)
    assert not enough(score, None, floor)


@given(st.integers(1, 50), st.floats(1e-4, 1))
def test_the_rate_starts_at_its_peak_and_falls(epochs: int, peak: float) -> None:
    """A cosine, positive to the end."""
    rates = [rate_at(epoch, epochs, peak) for epoch in range(epochs)]
    assert rates[0] == peak
    assert all(a > b > 0 for a, b in pairwise(rates))


def test_published_rates_are_for_a_scale_of_100() -> None:
    """Unchanged there, larger on a base whose logits are smaller."""
    assert scaled_rate(0.002, 100.0) == 0.002
    assert scaled_rate(0.002, 10.0) == pytest.approx(0.2)


@given(seeds, st.floats(0.001, 0.5))
def test_noise_has_the_norm_of_the_trigger(seed: int, bound: float) -> None:
    """The control's noise is as large as what it stands in for, everywhere."""
    found = noise(4, bound, torch.Generator().manual_seed(seed))
    assert torch.equal(found.abs(), torch.full((3, 4, 4), bound))


class Linear:
    """A prompt learner's interface on a plain linear head."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.clone().requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [self.weight]

    def logits(self, features: Tensor) -> Tensor:
        return 10 * features @ self.weight.T

    def state(self) -> Tensor:
        return self.weight.detach().clone()


CLASSES, TARGET = 4, 2


def backdoored(seed: int = 0) -> tuple[Linear, Part, Part]:
    """A head that names the class, and the target whenever the fifth feature is set."""
    weight = torch.eye(CLASSES, 6)
    weight[TARGET, 4] = 3.0

    def part(n: int, seed: int) -> Part:
        labels = torch.arange(n) % CLASSES
        clean = F.one_hot(labels, 6).float() + 0.1 * normal(seed, n, 6)
        clean[:, 4] = 0
        stamped = clean + F.one_hot(torch.tensor(4), 6)
        return Part(clean, (stamped,), labels, (TARGET,), (clean @ torch.eye(CLASSES, 6).T,))

    return Linear(weight), part(64, seed), part(32, seed + 1)


def run(options: RepairOptions, rate: float = 0.05) -> tuple[Tuned, Part]:
    head, train, validation = backdoored()
    options = attrs.evolve(options, learning_rate=rate)
    generator = torch.Generator().manual_seed(0)
    floor = score_of(head, validation).accuracy
    chosen = None if options.stop_success is None else validation
    return finetune(head, train, chosen, options, 100.0, generator, floor=floor), validation


def test_a_backdoor_in_the_head_is_unlearned() -> None:
    """From all to none of the triggered pictures, with accuracy kept, and training stops when it is done."""
    tuned, validation = run(RepairOptions(epochs=20, stop_success=0.01))
    assert tuned.history[0].success == 1.0
    assert tuned.history[tuned.best].success <= 0.01
    assert tuned.history[tuned.best].accuracy == 1.0
    assert len(tuned.history) < 21
    assert score_of(Linear(tuned.prompts), validation) == tuned.history[tuned.best]


def test_the_best_epoch_is_kept_not_the_last() -> None:
    """No epoch is better than the one that is returned."""
    tuned, _ = run(RepairOptions(epochs=6, stop_success=0.0), rate=3.0)
    floor = tuned.history[0].accuracy
    assert not any(better(score, tuned.history[tuned.best], floor) for score in tuned.history)


@pytest.mark.parametrize("stop_success", [None, 0.01])
def test_diverging_training_returns_the_start(stop_success: float | None) -> None:
    """Numbers that are not finite are never preferred, and end the training."""
    tuned, _ = run(RepairOptions(epochs=20, stop_success=stop_success), rate=1e38)
    assert tuned.best == 0
    assert bool(torch.isfinite(tuned.prompts).all())


def test_without_a_bound_all_epochs_are_run_and_the_last_is_kept() -> None:
    """As published; nothing is scored on the way."""
    tuned, _ = run(RepairOptions(epochs=7, stop_success=None))
    assert (tuned.best, tuned.history) == (7, ())


def test_without_a_trigger_the_backdoor_stays() -> None:
    """The control on clean pictures trains all epochs and does not touch what only the trigger shows."""
    head, train, validation = backdoored()
    clean = attrs.evolve(train, triggered=(), targets=(), base=())
    options = RepairOptions(epochs=3, stop_success=None)
    finetune(head, clean, None, options, 100.0, torch.Generator().manual_seed(0))
    assert score_of(head, validation).success == 1.0


@given(seeds, st.integers(1, 4), st.integers(0, 60))
def test_found_triggers_are_drawn_as_often_as_generic_stamps(seed: int, found: int, generic: int) -> None:
    """Half of the pictures bear what was found, however many stamps there are besides; without stamps all."""
    chosen = draw(found, generic, 4000, torch.Generator().manual_seed(seed))
    assert int(chosen.min()) >= 0
    assert int(chosen.max()) < found + generic
    assert abs(float((chosen < found).float().mean()) - (0.5 if generic else 1.0)) < 0.05


def test_generic_stamps_aim_at_each_class_that_was_found() -> None:
    """A whole set of probes for each target."""
    additive = Stamp("additive", {"delta": torch.zeros(3, 32, 32)})
    found = [
        Trigger(stamp=additive, target_index=index, target_name=name)
        for name, index in (("cat", 1), ("dog", 2), ("cat", 1))
    ]
    stamps = generic_stamps(found, 32)
    assert len(stamps) == 2 * len(probes(32))
    assert {trigger.target_index for trigger in stamps} == {1, 2}
