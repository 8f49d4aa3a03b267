"""What a run tells: counters, events, time left."""

from __future__ import annotations

import time

import pytest
import torch

from clipsec.scheduler import Backward, Counts, Encode, Eta, Scheduler, events


def test_counters_add_up(lab):
    """Every row is counted once where it belongs, by session and in all."""
    scheduler = Scheduler(micro_batch=8, graph_rows=0)

    def problem(n):
        leaf = torch.randn(n, 12, requires_grad=True)
        yield Backward((yield Encode(lab.image, leaf)).sum())
        yield Encode(lab.image, leaf.detach())
        yield Encode(lab.image, leaf.detach())

    list(scheduler.as_completed([("a", problem(4)), ("b", problem(2))], session=str))
    a, b, total = scheduler.counts("a"), scheduler.counts("b"), scheduler.counts()
    assert isinstance(total, Counts)
    assert (a.forward_rows, a.backward_rows, a.cached_rows) == (8, 4, 4)
    assert (b.forward_rows, b.backward_rows, b.cached_rows) == (4, 2, 2)
    assert (total.forward_rows, total.backward_rows, total.cached_rows) == (12, 6, 6)
    assert total.padded_rows == a.padded_rows + b.padded_rows == 3 * 8 - 18
    assert total.tower_calls == 3
    assert a.tower_calls == b.tower_calls == 3
    assert total.seconds == pytest.approx(a.seconds + b.seconds)
    assert total.micro_batches == {"image grad": 8, "image forward": 8}
    assert total.peak_memory_bytes > 1 << 20
    assert total.degraded == 0
    assert scheduler.counts("nobody") == Counts()


def test_seconds_are_shared_by_rows(lab):
    """A session with three of four rows pays for three quarters of the call."""

    def slow(rows):
        time.sleep(0.02)
        return rows * 2

    tower = lab.tower(slow)
    scheduler = Scheduler(micro_batch=4)
    problems = [("a", lab.encode(tower, torch.randn(3, 2))), ("b", lab.encode(tower, torch.randn(1, 2)))]
    list(scheduler.as_completed(problems, session=str))
    assert scheduler.counts().seconds >= 0.02
    assert scheduler.counts("a").seconds == pytest.approx(3 * scheduler.counts("b").seconds)


def test_recomputed_rows_are_counted_apart(lab):
    """Forward rows are what was asked for, however often they had to be computed."""

    def problem():
        leaf = torch.randn(8, 12, requires_grad=True)
        yield Backward((yield Encode(lab.image, leaf)).sum())

    scheduler = Scheduler(micro_batch=2, graph_rows=0)
    scheduler.run(problem())
    counts = scheduler.counts()
    assert (counts.forward_rows, counts.recomputed_rows, counts.backward_rows) == (8, 6, 8)
    assert counts.tower_calls == 4 + 3 + 4


def test_exclusive_use_is_on_the_session_s_bill(lab):
    """Its time is counted, also when it fails, and graphs that are kept are let go for its sake."""
    scheduler = Scheduler(micro_batch=4)

    def tune():
        assert len(scheduler._core.graphs) == 0
        time.sleep(0.02)
        raise OSError("tuning failed")

    def problem():
        leaf = torch.randn(2, 12, requires_grad=True)
        features = yield Encode(lab.image, leaf)
        assert len(scheduler._core.graphs) == 1
        with pytest.raises(OSError, match="tuning failed"), scheduler.exclusive("tuning"):
            tune()
        yield Backward(features.sum())
        return leaf.grad

    assert scheduler.run(problem()) is not None
    assert 0.02 <= scheduler.counts("tuning").exclusive_seconds == scheduler.counts("tuning").seconds
    assert scheduler.counts().exclusive_seconds == scheduler.counts("tuning").exclusive_seconds
    assert scheduler.counts().recomputed_rows == 2


def test_events_tell_the_story_of_a_run(lab):
    """Problems begin and end once each; every physical call is a step with its rows."""
    told = []
    scheduler = Scheduler(micro_batch=8, on_event=told.append)
    problems = [
        (i, lab.invert(lab.image, lab.targets[i], lab.pool, steps=2, fail_at=1 if i else None))
        for i in range(2)
    ]
    list(scheduler.as_completed(problems, session="s"))
    assert [e.tag for e in told if isinstance(e, events.ProblemStarted)] == [0, 1]
    ended = [e for e in told if isinstance(e, events.ProblemDone)]
    assert sorted((e.tag, type(e.error)) for e in ended) == [(0, type(None)), (1, ValueError)]
    assert {e.session for e in ended} == {"s"}
    steps = [(e.op, e.rows, e.micro_batch) for e in told if isinstance(e, events.StepDone)]
    assert steps == [("grad", 6, 8), ("backward", 6, 8), ("grad", 3, 8), ("backward", 3, 8)]
    assert all(e.seconds > 0 and e.label == "image" for e in told if isinstance(e, events.StepDone))


def test_time_left_follows_the_rate():
    """At two rows a second, thirty rows to go are fifteen seconds; the estimate follows a change of pace."""
    now = [100.0]
    eta = Eta(40, window=4, clock=lambda: now[0])
    assert eta.seconds_left is None
    assert eta.fraction == 0

    def step(rows, seconds, op="grad"):
        now[0] += seconds
        eta(events.StepDone("t", op, rows, 8, seconds))

    step(5, 2.0)
    step(5, 1.0, op="backward")
    step(5, 2.0)
    assert eta.fraction == 0.25
    assert eta.seconds_left == pytest.approx(15.0)
    for _ in range(4):
        step(5, 10.0)
    assert eta.fraction == 0.75
    assert eta.seconds_left == pytest.approx(20.0)
    eta.skip(10)
    assert eta.fraction == 1.0
    assert eta.seconds_left == 0
    with pytest.raises(ValueError):
        Eta(0)


def test_time_left_listens_to_a_scheduler(lab):
    """As a listener it sees exactly the rows that problems ask for."""
    eta = Eta(10 * 5 * 3)
    list(Scheduler(micro_batch=32, on_event=eta).as_completed(lab.inversions(lab.image)))
    assert eta.fraction == 1.0
    assert eta.seconds_left == 0
