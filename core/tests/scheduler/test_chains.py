"""Gradients through several towers and the plugin's own graph: what one uncut autograd graph would give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clipsec.errors import ContractError
from clipsec.scheduler import Backward, Encode, Scheduler, Tower


def same_as_uncut(lab, problem, *, micro_batches=(2, 8, 32), graph_rows=(0, None)):
    """The problem's value under several schedulers is the reference's."""
    expected = lab.uncut(problem())
    for size in micro_batches:
        for rows in graph_rows:
            value = Scheduler(micro_batch=size, graph_rows=rows).run(problem())
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    return expected


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def test_gradient_goes_through_two_towers_and_the_glue_between(lab):
    """Loss of logits of normalised features of a triggered picture."""

    def problem():
        trigger = torch.full((12,), 0.1, requires_grad=True)
        features = yield Encode(lab.image, lab.pool + trigger)
        logits = yield Encode(lab.head, unit(features))
        yield Backward(torch.logsumexp(logits, 1).sum() + trigger.square().sum())
        return trigger.grad

    assert same_as_uncut(lab, problem).abs().sum() > 0


def test_feature_used_in_the_loss_and_in_the_next_tower(lab):
    """Both ways contribute to the gradient of the feature."""

    def problem():
        trigger = torch.full((12,), 0.1, requires_grad=True)
        features = yield Encode(lab.image, lab.pool + trigger)
        logits = yield Encode(lab.head, unit(features))
        yield Backward(logits.sum() + features.square().sum())
        return trigger.grad

    same_as_uncut(lab, problem)


def test_one_feature_feeds_two_towers(lab):
    """A diamond: the feature's gradient is complete only after both towers were pulled back."""
    other = lab.tower(lambda rows: torch.tanh(rows) * 3, "other")

    def problem():
        rows = lab.pool.clone().requires_grad_(True)
        features = yield Encode(lab.image, rows)
        left = yield Encode(lab.head, features)
        right = yield Encode(other, features * 2)
        yield Backward((left.sum(1) * right.sum(1)).sum())
        return rows.grad

    same_as_uncut(lab, problem)


def test_the_same_rows_encoded_twice(lab):
    """Two encodes of one tensor, by the same tower and by another, add up; also when it is a leaf."""
    other = lab.tower(lambda rows: rows.sin(), "other")

    def problem():
        leaf = lab.pool.clone().requires_grad_(True)
        rows = leaf * 1.5
        once = yield Encode(lab.image, rows)
        twice = yield Encode(lab.image, rows)
        third = yield Encode(other, leaf)
        yield Backward((once * twice.detach()).sum() + twice.square().sum() + third.sum())
        return leaf.grad

    same_as_uncut(lab, problem)


def test_glue_shared_by_two_encodes_and_the_loss(lab):
    """A mask that shapes both inputs and is itself penalised: one graph, walked once, nothing counted
    twice."""

    def problem():
        mask_seed = torch.zeros(12, requires_grad=True)
        pattern = torch.zeros(12, requires_grad=True)
        mask = torch.sigmoid(mask_seed).square()
        first = yield Encode(lab.image, (1 - mask) * lab.pool + mask * pattern)
        second = yield Encode(lab.image, (1 - mask) * lab.pool.flip(0) + mask * pattern)
        yield Backward((first * second).sum() + mask.sum())
        return mask_seed.grad, pattern.grad

    same_as_uncut(lab, problem)


def test_glue_shared_along_a_chain(lab):
    """A learnt temperature that enters before the first tower, between the towers and in the loss."""

    def problem():
        seed = torch.tensor(0.3, requires_grad=True)
        scale = seed.exp()
        features = yield Encode(lab.image, lab.pool * scale)
        logits = yield Encode(lab.head, unit(features) * scale)
        yield Backward((logits * scale).square().mean())
        return seed.grad

    same_as_uncut(lab, problem)


def test_features_that_the_loss_ignores_cost_no_backward(lab):
    """Their rows get no gradient, as in plain autograd, and no vjp is computed for them."""

    def problem():
        used = lab.pool.clone().requires_grad_(True)
        unused = lab.pool.clone().requires_grad_(True)
        yield Encode(lab.image, unused)
        features = yield Encode(lab.image, used)
        yield Encode(lab.head, features)
        yield Backward(features.sum())
        return used.grad, unused.grad

    scheduler = Scheduler(micro_batch=4)
    used, unused = scheduler.run(problem())
    assert used is not None
    assert unused is None
    assert scheduler.counts().backward_rows == 3


def test_backward_without_an_encode_is_plain_autograd(lab):
    """A loss that no tower enters (a regulariser on its own) works too."""

    def problem():
        trigger = torch.ones(3, requires_grad=True)
        yield Backward(trigger.square().sum())
        return trigger.grad

    assert torch.equal(Scheduler().run(problem()), torch.full((3,), 2.0))


def test_gradients_accumulate_as_in_torch(lab):
    """Two Backwards without zero_grad add up, and the features themselves hold their gradient."""

    def problem():
        trigger = torch.zeros(12, requires_grad=True)
        for _ in range(2):
            features = yield Encode(lab.image, lab.pool + trigger)
            yield Backward(features.sum())
            assert torch.equal(features.grad, torch.ones_like(features))
        return trigger.grad

    torch.testing.assert_close(Scheduler().run(problem()), lab.uncut(_without_feature_grad(lab)))


def _without_feature_grad(lab):
    trigger = torch.zeros(12, requires_grad=True)
    for _ in range(2):
        yield Backward((yield Encode(lab.image, lab.pool + trigger)).sum())
    return trigger.grad


def test_features_that_a_backward_used_up_are_refused(lab):
    """A loss on features from before the last Backward would silently lose gradient; it is an error
    instead."""

    def problem():
        trigger = torch.zeros(12, requires_grad=True)
        features = yield Encode(lab.image, lab.pool + trigger)
        yield Backward(features.sum())
        before = trigger.grad.clone()
        later = yield Encode(lab.image, lab.pool + trigger)
        try:
            yield Backward((later * features).sum())
        except ContractError:
            assert torch.equal(trigger.grad, before)
        else:
            raise AssertionError("used-up features were accepted")
        yield Backward((later * features.detach()).sum())
        return "went on"

    assert Scheduler().run(problem()) == "went on"


@pytest.mark.parametrize("wrong", ["vector", "constant"])
def test_a_loss_that_autograd_refuses_leaves_everything_as_it_was(lab, wrong):
    """The plugin gets autograd's own error and may yield a better Backward for the same features."""

    def problem():
        trigger = torch.zeros(12, requires_grad=True)
        features = yield Encode(lab.image, lab.pool + trigger)
        with pytest.raises(RuntimeError):
            yield Backward(features.sum(0) if wrong == "vector" else torch.tensor(1.0))
        assert trigger.grad is None
        assert features.grad is None
        yield Backward(features.sum())
        return trigger.grad

    torch.testing.assert_close(Scheduler().run(problem()), lab.uncut(_one_step(lab)))


def _one_step(lab):
    trigger = torch.zeros(12, requires_grad=True)
    yield Backward((yield Encode(lab.image, lab.pool + trigger)).sum())
    return trigger.grad


def test_no_gradient_is_left_behind_when_a_tower_cannot_be_pulled_back(lab, trip_backward):
    """Backward is all or nothing: an error on the way leaves every .grad of the plugin untouched."""

    def trip(gradient):
        raise RuntimeError("no way back")

    broken = lab.tower(lambda rows: trip_backward(rows.sin(), trip), "broken")

    def problem():
        trigger = torch.zeros(12, requires_grad=True)
        rows = lab.pool + trigger
        fine = yield Encode(lab.image, rows)
        bad = yield Encode(broken, rows)
        with pytest.raises(RuntimeError, match="no way back"):
            yield Backward(fine.sum() + bad.sum() + trigger.sum())
        assert trigger.grad is None
        yield Backward((yield Encode(lab.image, lab.pool + trigger)).sum())
        return trigger.grad

    torch.testing.assert_close(Scheduler().run(problem()), lab.uncut(_one_step(lab)))


WIDTH = 8
MAPS = [nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, WIDTH)) for _ in range(2)]
TOWERS = [Tower(f"t{i}", net.requires_grad_(False), f"t{i}") for i, net in enumerate(MAPS)]

operations = st.lists(
    st.tuples(st.sampled_from(["encode", "glue", "mix", "plain"]), st.integers(0, 50), st.integers(0, 50)),
    min_size=1,
    max_size=7,
)
programs = st.tuples(st.integers(1, 6), st.lists(operations, min_size=1, max_size=3))


def program(rows, rounds, seed):
    """A random plugin: a graph of encodes and glue over two leaves, a random loss, for some rounds."""
    draw = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(rows, WIDTH, generator=draw).requires_grad_(True) for _ in range(2)]
    for operations in rounds:
        tensors = [leaves[0], leaves[1].sigmoid()]
        for what, i, j in operations:
            one, other = tensors[i % len(tensors)], tensors[j % len(tensors)]
            if what == "encode":
                tensors.append((yield Encode(TOWERS[j % 2], one)))
            elif what == "plain":
                tensors.append((yield Encode(TOWERS[j % 2], one.detach())))
            elif what == "glue":
                tensors.append(torch.sin(one) + 0.5)
            else:
                tensors.append(one * other)
        weights = torch.randn(len(tensors), generator=draw)
        chosen = torch.rand(len(tensors), generator=draw) < 0.7
        loss = leaves[0].sum() * 0.1
        for tensor, weight, wanted in zip(tensors, weights, chosen):
            if wanted:
                loss = loss + weight * tensor.square().mean()
        yield Backward(loss)
    return [leaf.grad for leaf in leaves]


@settings(deadline=None, max_examples=120)
@given(
    plugins=st.lists(programs, min_size=1, max_size=5),
    micro_batch=st.sampled_from([1, 2, 4, 16]),
    graph_rows=st.sampled_from([None, 0, 100]),
    max_live=st.integers(1, 5),
)
def test_random_plugins_together_get_what_each_gets_alone(
    uncut_done, plugins, micro_batch, graph_rows, max_live
):
    """Property (a): chains, diamonds and shared glue, with neighbours, chunks and recomputation."""
    scheduler = Scheduler(micro_batch=micro_batch, graph_rows=graph_rows)
    problems = ((i, program(rows, rounds, i)) for i, (rows, rounds) in enumerate(plugins))
    done = list(scheduler.as_completed(problems, max_live=max_live))
    assert sorted(d.tag for d in done) == list(range(len(plugins)))
    for d in done:
        rows, rounds = plugins[d.tag]
        expected = uncut_done(d.tag, program(rows, rounds, d.tag)).unwrap()
        for gradient, right in zip(d.unwrap(), expected):
            assert (gradient is None) == (right is None)
            if right is not None:
                torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-5)
    assert not scheduler._core.graphs
