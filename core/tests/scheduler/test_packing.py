"""Rows of many problems in one fixed physical batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clipsec.scheduler import Backward, Encode, Scheduler, Tower


def test_result_is_that_of_each_problem_alone_at_a_tenth_of_the_calls(lab):
    """Ten problems of five steps cost five forwards and five backwards, not fifty of each."""
    scheduler = Scheduler(micro_batch=32)
    results = {done.tag: done.unwrap() for done in scheduler.as_completed(lab.inversions(lab.image))}
    for i in range(10):
        torch.testing.assert_close(results[i], lab.alone[i], rtol=1e-5, atol=1e-6)
    assert scheduler.counts().tower_calls == 10


def test_neighbours_do_not_change_a_bit(lab):
    """A problem's result is bit-equal whether it runs alone or with nine others."""
    together = {d.tag: d.value for d in Scheduler(micro_batch=32).as_completed(lab.inversions(lab.image))}
    alone = Scheduler(micro_batch=32).run(lab.invert(lab.image, lab.targets[3], lab.pool))
    assert torch.equal(together[3], alone)


@settings(deadline=None, max_examples=40)
@given(
    order=st.permutations(range(10)),
    kept=st.integers(1, 10),
    sizes=st.lists(st.integers(1, 11), min_size=10, max_size=10),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    graph_rows=st.sampled_from([0, 8, 1000]),
)
def test_any_subset_in_any_order_is_bit_equal(order, kept, sizes, dtype, graph_rows):
    """Property (b): neither who else runs, nor in which order, nor whether graphs are kept, changes a bit."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 64), nn.GELU(), nn.Linear(64, 8)).requires_grad_(False).to(dtype)
    tower = Tower("t", net, "t", dtype=dtype)
    pools = [torch.randn(n, 12) for n in sizes]

    def problem(i):
        trigger = torch.zeros(12, requires_grad=True)
        for _ in range(2):
            features = yield Encode(tower, pools[i] + trigger)
            yield Backward(features.square().sum())
            plain = yield Encode(tower, pools[i])
            with torch.no_grad():
                trigger += 0.1 * trigger.grad.sign() + 0.01 * plain.mean()
        return trigger.grad

    def run(members, graph_rows):
        scheduler = Scheduler(micro_batch=8, graph_rows=graph_rows)
        return {d.tag: d.unwrap() for d in scheduler.as_completed((i, problem(i)) for i in members)}

    everybody = run(range(10), None)
    some = run(order[:kept], graph_rows)
    assert some.keys() == set(order[:kept])
    for i, gradient in some.items():
        assert torch.equal(gradient, everybody[i])


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("graph_rows", [0, None, 1000])
def test_rows_beyond_the_micro_batch_run_in_chunks(lab, micro_batch, graph_rows):
    """A problem larger than the batch is computed in pieces, again in the backward pass if need be."""
    scheduler = Scheduler(micro_batch=micro_batch, graph_rows=graph_rows)
    for done in scheduler.as_completed(lab.inversions(lab.image)):
        torch.testing.assert_close(done.unwrap(), lab.alone[done.tag], rtol=1e-5, atol=1e-6)
    counts = scheduler.counts()
    assert counts.forward_rows == counts.backward_rows == 150
    if graph_rows == 1000:
        assert counts.recomputed_rows == 0
    if graph_rows == 0 and micro_batch == 1:
        # Of the three chunks of a problem only the last one's graph is there when the gradient comes.
        assert counts.recomputed_rows == 100


def test_every_physical_call_has_the_fixed_size(lab):
    """Padding repeats the last row up to the micro-batch; nothing ever exceeds it."""
    sizes = []

    def spy(rows):
        sizes.append(rows.clone())
        return lab.net(rows)

    scheduler = Scheduler(micro_batch=4)
    scheduler.encode(lab.tower(spy), torch.randn(6, 12))
    assert [len(rows) for rows in sizes] == [4, 4]
    assert torch.equal(sizes[1][2], sizes[1][1])
    assert torch.equal(sizes[1][3], sizes[1][1])
    assert scheduler.counts().padded_rows == 2


def test_a_small_call_is_not_cut_to_fill_a_batch(lab):
    """First fit: 3 + 3 rows and then 2 fill a batch of 8, a third 3 waits."""
    batches = []

    def spy(rows):
        batches.append(rows[:, 0].int().tolist())
        return lab.net(rows)

    tower = lab.tower(spy)

    def problem(i, n):
        rows = torch.full((n, 12), float(i), requires_grad=True)
        features = yield Encode(tower, rows)
        yield Backward(features.sum())

    list(Scheduler(micro_batch=8).as_completed((i, problem(i, n)) for i, n in enumerate([3, 3, 3, 2])))
    assert batches == [[0, 0, 0, 1, 1, 1, 3, 3], [2] * 8]


def test_declared_micro_batches_are_kept_apart(lab):
    """A request's own micro-batch beats the tower's, which beats the scheduler's; only equals share a
    batch."""
    sizes = []

    def spy(rows):
        sizes.append(len(rows))
        return lab.net(rows)

    small = lab.tower(spy, micro_batch=4)
    plain = lab.tower(spy)
    rows = torch.randn(2, 12)
    problems = [
        lab.encode(plain, rows, micro_batch=2),
        lab.encode(small, rows + 1),
        lab.encode(plain, rows + 2),
        lab.encode(small, rows + 3),
    ]
    list(Scheduler(micro_batch=16).as_completed(enumerate(problems)))
    assert sizes == [2, 4, 16]


def test_shapes_and_dtypes_never_share_a_batch(lab):
    """Rows of another shape or dtype go into another call of the same tower."""
    seen = []

    def total(rows):
        seen.append((rows.dtype, tuple(rows.shape)))
        return rows.float().flatten(1).sum(1, keepdim=True)

    tower = lab.tower(total)
    rows = [torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3, dtype=torch.int64), torch.ones(1, 3)]
    results = list(
        Scheduler(micro_batch=4).as_completed((i, lab.encode(tower, r)) for i, r in enumerate(rows))
    )
    assert len(seen) == 3
    assert {d.tag: d.value[0].item() for d in results} == {0: 3.0, 1: 4.0, 2: 3.0, 3: 3.0}


def test_whole_numbers_reach_the_tower_as_they_are(lab):
    """Token ids are never cast to the tower's dtype: 257 is not a bfloat16 number."""
    embedding = torch.arange(600.0)[:, None]

    def look_up(ids, places):
        assert ids.dtype == torch.int64
        return embedding[ids[torch.arange(len(ids)), places]]

    tower = lab.tower(look_up, dtype=torch.bfloat16)
    ids = torch.tensor([[1, 257], [513, 3]])
    features = Scheduler(micro_batch=4).encode(tower, ids, torch.tensor([1, 0]))
    assert features.tolist() == [[257.0], [513.0]]
    assert features.dtype == torch.float32


def test_aux_travels_with_its_rows(lab):
    """Per-row extras are stacked, padded and chunked like the rows, with and without a gradient."""

    def scale(rows, factor):
        return rows * factor[:, None]

    tower = lab.tower(scale)
    factors = torch.arange(1.0, 8.0)

    def problem():
        rows = torch.ones(7, 3, requires_grad=True)
        features = yield Encode(tower, rows, (factors,))
        yield Backward(features.sum())
        plain = yield Encode(tower, rows.detach(), (factors,))
        return rows.grad, plain

    gradient, plain = Scheduler(micro_batch=2, graph_rows=0).run(problem())
    assert torch.equal(gradient, factors[:, None].expand(7, 3))
    assert torch.equal(plain, gradient)


def test_order_and_tags_survive(lab):
    """Property (e): each tag comes once, with its own value, whatever the order of ending."""
    scheduler = Scheduler(micro_batch=4)

    def problem(i):
        total = torch.zeros(8)
        for _ in range(i % 3):
            total += (yield Encode(lab.image, torch.full((2, 12), float(i)))).sum(0)
        return i, total

    done = list(scheduler.as_completed((f"p{i}", problem(i)) for i in range(20)))
    assert sorted(d.tag for d in done) == sorted(f"p{i}" for i in range(20))
    assert all(d.value[0] == int(d.tag[1:]) for d in done)


def test_graphs_kept_are_bounded_and_the_oldest_goes(lab):
    """With room for one graph, three chunks of a problem cost two recomputed chunks; with room for all,
    none."""
    calls = itertools.count()

    def spy(rows):
        next(calls)
        return lab.net(rows)

    def problem():
        rows = torch.randn(12, 12, requires_grad=True)
        yield Backward((yield Encode(lab.tower(spy), rows)).sum())

    for graph_rows, recomputed in [(4, 8), (8, 4), (12, 0), (None, 4)]:
        scheduler = Scheduler(micro_batch=4, graph_rows=graph_rows)
        scheduler.run(problem())
        assert scheduler.counts().recomputed_rows == recomputed
