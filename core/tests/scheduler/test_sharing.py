"""Who is served when: sessions, priorities, laziness, and neighbours that keep others waiting."""

from __future__ import annotations

import itertools

import pytest
import torch

from clipsec.scheduler import Backward, Encode, Scheduler
from clipsec.scheduler._backward import PATIENCE


def stepper(lab, order, name, steps, rows=3):
    for _ in range(steps):
        order.append(name)
        leaf = torch.randn(rows, 12).requires_grad_(True)
        yield Backward((yield Encode(lab.image, leaf)).sum())


def test_two_sessions_share_by_rows(lab):
    """A small session of six steps is through after twelve or so of the big one's, not after all eighteen."""
    order = []
    problems = [(("big", i), stepper(lab, order, "big", 6)) for i in range(3)]
    problems.append((("small", 0), stepper(lab, order, "small", 6)))
    list(Scheduler(micro_batch=4).as_completed(problems, session=lambda tag: tag[0]))
    assert max(i for i, who in enumerate(order) if who == "small") <= 16
    assert len(order) == 24


def test_a_late_session_gets_its_share_and_no_more(lab):
    """Whoever comes later starts level: it neither waits for its turn nor makes up for the past."""
    order = []

    def problems():
        yield "early", stepper(lab, order, "early", 40)
        yield "brief", stepper(lab, order, "brief", 20)
        yield "late", stepper(lab, order, "late", 20)

    list(Scheduler(micro_batch=4).as_completed(problems(), session=str, max_live=2))
    arrival = order.index("late")
    assert order.count("early") == 40
    after = order[arrival : arrival + 20]
    assert 8 <= after.count("late") <= 12


def test_higher_priority_goes_first(lab):
    """An urgent problem is carried to its end before others get another batch, whatever they have had."""
    order = []
    names = ["slow", "urgent", "other"]
    problems = [(name, stepper(lab, order, name, 4)) for name in names]
    scheduler = Scheduler(micro_batch=4)
    list(scheduler.as_completed(problems, session=str, priority=lambda tag: 1 if tag == "urgent" else 0))
    assert order[:3] == names  # all run their first lines
    assert order[3:6] == ["urgent"] * 3
    assert sorted(order[6:]) == ["other"] * 3 + ["slow"] * 3


def test_a_nested_run_does_not_wait_for_the_outer_one(lab):
    """What plugin code runs by itself is between it and the scheduler; the neighbours go on afterwards."""
    order = []
    scheduler = Scheduler(micro_batch=4)

    def outer():
        yield from stepper(lab, order, "before", 1)
        list(scheduler.as_completed([("inner", stepper(lab, order, "inner", 3))]))
        yield from stepper(lab, order, "after", 1)

    list(scheduler.as_completed([("outer", outer()), ("other", stepper(lab, order, "other", 5))]))
    first = order.index("inner")
    assert order[first : first + 4] == ["inner"] * 3 + ["after"]


def test_problems_are_drawn_lazily(lab):
    """Never more than max_live at once, and no further while the caller does not take results."""
    drawn = []

    def problems():
        for i in itertools.count():
            drawn.append(i)
            yield i, lab.encode(lab.image, torch.randn(1, 12))

    done = Scheduler(micro_batch=4).as_completed(problems(), max_live=3)
    assert drawn == []
    taken = [next(done).tag for _ in range(7)]
    assert taken == list(range(7))
    assert len(drawn) <= 7 + 3
    done.close()

    def at_once(i):
        return i
        yield

    quick = Scheduler().as_completed(
        ((drawn.append(i) or i, at_once(i)) for i in itertools.count()), max_live=5
    )
    drawn.clear()
    assert next(quick).value == 0
    assert len(drawn) <= 6
    quick.close()
    with pytest.raises(ValueError):
        Scheduler().as_completed([], max_live=0)


def test_a_neighbour_that_never_comes_back_does_not_block(lab):
    """Nothing else can run: the rows of those who wait are computed again without the laggard."""

    def laggard():
        yield Encode(lab.image, lab.pool.clone().requires_grad_(True))
        for _ in range(3 * PATIENCE):
            yield Encode(lab.image, torch.randn(4, 12))
        return "late"

    scheduler = Scheduler(micro_batch=8)
    order = [
        d.tag
        for d in scheduler.as_completed(
            [(0, lab.invert(lab.image, lab.targets[0], lab.pool)), ("laggard", laggard())]
        )
    ]
    assert order == [0, "laggard"]
    assert scheduler.counts().recomputed_rows == 3


def test_patience_ends_while_others_are_busy(lab):
    """A waiting problem is split off after a bounded number of steps even though there is other work."""
    steps = []

    def laggard():
        yield Encode(lab.image, lab.pool.clone().requires_grad_(True))
        while not steps:
            yield Encode(lab.image, torch.randn(4, 12))
        return len(steps)

    def waiting():
        leaf = lab.pool.clone().requires_grad_(True)
        yield Backward((yield Encode(lab.image, leaf)).sum())
        steps.append("went on")
        return leaf.grad

    done = {d.tag: d for d in Scheduler(micro_batch=8).as_completed([("l", laggard()), ("w", waiting())])}
    assert done["l"].unwrap() == 1
    torch.testing.assert_close(done["w"].unwrap(), lab.uncut(_one_backward(lab)))


def _one_backward(lab):
    leaf = lab.pool.clone().requires_grad_(True)
    yield Backward((yield Encode(lab.image, leaf)).sum())
    return leaf.grad


def test_a_laggard_gets_its_own_gradient_in_the_end(lab):
    """After its neighbours were split off, the kept graph still serves the one that comes late, to the
    bit."""

    def waiting():
        leaf = lab.pool.clone().requires_grad_(True)
        yield Backward((yield Encode(lab.image, leaf)).sum())
        return leaf.grad

    def laggard():
        leaf = lab.pool.clone().requires_grad_(True)
        features = yield Encode(lab.image, leaf)
        for _ in range(PATIENCE + 5):
            yield Encode(lab.image, torch.randn(4, 12))
        yield Backward(features.sum())
        return leaf.grad

    scheduler = Scheduler(micro_batch=8)
    done = {d.tag: d.unwrap() for d in scheduler.as_completed([("l", laggard()), ("w", waiting())])}
    assert torch.equal(done["l"], done["w"])
    assert torch.equal(done["l"], Scheduler(micro_batch=8).run(waiting()))
    assert scheduler.counts().recomputed_rows == 3


def test_a_neighbour_that_ends_without_backward_frees_the_others(lab):
    """A problem that returns or fails while its batch neighbours wait costs no recomputation."""

    def quitter():
        yield Encode(lab.image, lab.pool.clone().requires_grad_(True))
        yield Encode(lab.image, lab.pool)
        raise ValueError("enough")

    scheduler = Scheduler(micro_batch=8)
    problems = [("quitter", quitter()), (0, lab.invert(lab.image, lab.targets[0], lab.pool))]
    done = {d.tag: d for d in scheduler.as_completed(problems)}
    assert isinstance(done["quitter"].error, ValueError)
    torch.testing.assert_close(done[0].unwrap(), lab.alone[0], rtol=1e-5, atol=1e-6)
    assert scheduler.counts().recomputed_rows == 0


def test_problems_out_of_step_fall_into_step(lab):
    """Two towers in turn, problems beginning at different times: batches are shared nonetheless."""

    def problem(skip):
        if skip:
            yield Encode(lab.head, torch.randn(1, 8))
        for _ in range(10):
            leaf = torch.randn(1, 12, requires_grad=True)
            features = yield Encode(lab.image, leaf)
            logits = yield Encode(lab.head, features)
            yield Backward(logits.sum())

    scheduler = Scheduler(micro_batch=16)
    list(scheduler.as_completed((i, problem(i % 2)) for i in range(16)))
    # In step: 10 rounds of two forwards and two vjps, and the one odd encode.
    assert scheduler.counts().tower_calls <= 41 + 6
