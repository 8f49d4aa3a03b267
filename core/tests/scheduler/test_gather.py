"""Problems that run problems of their own."""

from __future__ import annotations

import itertools

import pytest
import torch

from clipsec.scheduler import Backward, Done, Encode, Gather, Scheduler


def test_children_share_batches_and_come_back_in_input_order(lab):
    """Ten gathered inversions cost what ten top-level ones cost, and give the same."""

    def detector():
        return (yield Gather(lab.inversions(lab.image)))

    scheduler = Scheduler(micro_batch=32)
    children = scheduler.run(detector(), session="detector")
    assert [child.tag for child in children] == list(range(10))
    for child in children:
        torch.testing.assert_close(child.unwrap(), lab.alone[child.tag], rtol=1e-5, atol=1e-6)
    assert scheduler.counts("detector").tower_calls == 10


def test_children_run_together_even_if_their_parent_runs_alone(lab):
    """The bound on live problems of a run is not that of a Gather in it."""

    def detector():
        return (yield Gather(lab.inversions(lab.image)))

    scheduler = Scheduler(micro_batch=32)
    list(scheduler.as_completed([("detector", detector())], max_live=1))
    assert scheduler.counts().tower_calls == 10


def test_gathers_may_be_nested_and_repeated(lab):
    """A grandchild's result reaches its grandparent; two hundred rounds do not grow the stack."""

    def leaf(n):
        return (yield Encode(lab.image, torch.full((1, 12), float(n)))).sum().item()

    def branch(n):
        done = yield Gather((k, leaf(10 * n + k)) for k in range(3))
        return [d.unwrap() for d in done]

    def root():
        done = yield Gather((n, branch(n)) for n in range(4))
        return [d.unwrap() for d in done]

    def empty(n):
        return n
        yield

    def rounds():
        total = 0
        for n in range(2000):
            (done,) = yield Gather([(n, empty(n))])
            total += done.value
        return total

    scheduler = Scheduler(micro_batch=4)
    values = scheduler.run(root())
    expected = lab.net(torch.arange(40.0)[:, None].expand(40, 12)).sum(1)
    assert values == [
        [pytest.approx(expected[10 * n + k].item(), abs=1e-4) for k in range(3)] for n in range(4)
    ]
    assert scheduler.run(rounds()) == sum(range(2000))


def test_gathering_nothing_answers_at_once(lab):
    """An empty Gather is an empty list."""

    def parent():
        return (yield Gather([]))

    assert Scheduler().run(parent()) == []


def test_a_child_s_failure_stays_in_its_done(lab):
    """The parent decides what a failed child means; its siblings and the parent go on."""

    def parent():
        children = [
            (i, lab.invert(lab.image, lab.targets[i], lab.pool, fail_at=2 if i == 1 else None))
            for i in range(3)
        ]
        done = yield Gather(children)
        return done

    done = Scheduler().run(parent())
    assert [type(d.error) for d in done] == [type(None), ValueError, type(None)]
    torch.testing.assert_close(done[2].value, lab.alone[2], rtol=1e-5, atol=1e-6)


def test_children_are_drawn_lazily_and_no_more_than_allowed(lab):
    """With max_live 2 a third child is started only when one has ended."""
    live, most = set(), []

    def child(n):
        live.add(n)
        most.append(len(live))
        for _ in range(n % 3 + 1):
            yield Encode(lab.image, torch.randn(1, 12))
        live.discard(n)
        return n

    drawn = []

    def children():
        for n in range(9):
            drawn.append(len(live))
            yield n, child(n)

    def parent():
        return (yield Gather(children(), max_live=2))

    assert [d.value for d in Scheduler().run(parent())] == list(range(9))
    assert max(most) == 2
    assert max(drawn) < 2


def test_on_done_is_called_as_each_child_ends(lab):
    """In order of completion, before the parent goes on, with failures among them."""
    ended = []

    def child(n):
        for _ in range(3 - n):
            yield Encode(lab.image, torch.randn(1, 12))
        if n == 1:
            raise ValueError("one")
        return n

    def parent():
        done = yield Gather(((n, child(n)) for n in range(3)), on_done=ended.append)
        assert len(ended) == 3
        return done

    done = Scheduler().run(parent())
    assert [d.tag for d in ended] == [2, 1, 0]
    assert [d.tag for d in done] == [0, 1, 2]
    assert all(isinstance(d, Done) for d in ended)


@pytest.mark.parametrize("culprit", ["on_done", "iterable", "item"])
def test_what_the_parent_handed_in_and_raises_is_the_parent_s_error(lab, culprit):
    """A callback, an iterable or an item that is wrong closes the children; the parent may catch it and go
    on."""
    closed = []

    def child(n):
        try:
            for _ in range(n + 1):
                yield Encode(lab.image, torch.randn(1, 12))
        finally:
            closed.append(n)

    def children():
        for n in range(3):
            yield n, child(n)
        if culprit == "iterable":
            raise KeyError("no more")
        if culprit == "item":
            yield "not a pair of two"

    def on_done(done):
        if culprit == "on_done":
            raise KeyError("cannot store")

    def parent():
        try:
            yield Gather(children(), on_done=on_done)
        except Exception as error:
            assert sorted(closed) == [0, 1, 2]
            features = yield Encode(lab.image, lab.pool)
            return type(error).__name__, len(features)

    name, rows = Scheduler().run(parent())
    assert name == ("ContractError" if culprit == "item" else "KeyError")
    assert rows == 3


def test_cancelling_the_parent_closes_children_first(lab):
    """Closing the iterator closes grandchildren, children and parent, in this order."""
    closed = []

    def leaf(name):
        try:
            while True:
                yield Encode(lab.image, torch.randn(1, 12))
        finally:
            closed.append(name)

    def branch(name):
        try:
            yield Gather([(0, leaf(name + "/leaf"))])
        finally:
            closed.append(name)

    def root():
        try:
            yield Gather((n, branch(f"branch{n}")) for n in range(2))
        finally:
            closed.append("root")

    def brief():
        yield Encode(lab.image, torch.randn(1, 12))

    done = Scheduler().as_completed([("root", root()), ("brief", brief())])
    assert next(done).tag == "brief"
    done.close()
    assert closed == ["branch0/leaf", "branch0", "branch1/leaf", "branch1", "root"]


def test_a_hundred_children_do_not_starve_another_session(lab):
    """Shares are by session: a lone problem of 6 steps ends long before the crowd of another session."""
    order = []

    def child(n):
        for _ in range(6):
            yield Encode(lab.image, torch.randn(2, 12).requires_grad_(True))
            order.append("crowd")

    def crowd():
        yield Gather((n, child(n)) for n in range(100))

    def lone():
        for _ in range(6):
            yield Encode(lab.image, torch.randn(2, 12).requires_grad_(True), micro_batch=2)
            order.append("lone")

    scheduler = Scheduler(micro_batch=2)
    list(scheduler.as_completed([("crowd", crowd()), ("lone", lone())], session=str))
    last = max(i for i, who in enumerate(order) if who == "lone")
    assert last <= 13
    assert order.count("crowd") == 600


def test_a_parent_s_own_features_survive_its_gather(lab):
    """A gradient asked for before a Gather can be pulled back after it, while children use the same tower."""

    def child(n):
        return (yield from lab.invert(lab.image, lab.targets[n], lab.pool))

    def parent():
        rows = lab.pool.clone().requires_grad_(True)
        features = yield Encode(lab.image, rows)
        done = yield Gather((n, child(n)) for n in range(3))
        yield Backward(features.sum() * sum(d.unwrap().sum() for d in done))
        return rows.grad

    def reference():
        rows = lab.pool.clone().requires_grad_(True)
        yield Backward((yield Encode(lab.image, rows)).sum() * sum(lab.alone[n].sum() for n in range(3)))
        return rows.grad

    for micro_batch, graph_rows in itertools.product([2, 16], [0, 100]):
        gradient = Scheduler(micro_batch=micro_batch, graph_rows=graph_rows).run(parent())
        torch.testing.assert_close(gradient, lab.uncut(reference()), rtol=1e-4, atol=1e-6)
