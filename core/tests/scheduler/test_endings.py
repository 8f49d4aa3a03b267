"""Cancelling, interrupting, and sources that fail: everything that was begun is closed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from clipsec.errors import ContractError
from clipsec.scheduler import Backward, Encode, Scheduler, events


def stepper(lab, i, closed, steps=5):
    """A problem of some steps that notes its closing."""
    try:
        for _ in range(steps):
            rows = (lab.pool + torch.zeros(12, requires_grad=True)) * (i + 1)
            features = yield Encode(lab.image, rows)
            yield Backward(features.sum())
        return i
    finally:
        closed.append(i)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["plugin", "tower", "source"])
def test_an_interrupt_closes_every_problem_and_propagates(lab, interrupt, where):
    """Ctrl-C inside plugin code, a tower or the source ends the run with nothing left open."""
    closed = []

    def forward(rows):
        if where == "tower":
            raise interrupt
        return lab.net(rows)

    def rude():
        try:
            yield Encode(lab.tower(forward, "rude"), lab.pool)
            if where == "plugin":
                raise interrupt
            yield Encode(lab.image, lab.pool)
        finally:
            closed.append("rude")

    def source():
        for i in range(4):
            yield i, stepper(lab, i, closed)
        yield "rude", rude()
        if where == "source":
            raise interrupt

    scheduler = Scheduler()
    with pytest.raises(interrupt):
        list(scheduler.as_completed(source()))
    assert set(closed) == {0, 1, 2, 3, "rude"}
    assert not scheduler._core.graphs
    torch.testing.assert_close(scheduler.encode(lab.image, lab.pool), lab.net(lab.pool))


def test_closing_the_iterator_cancels_what_is_live(lab):
    """What was yielded stays with the caller; the others are closed, and their kept graphs let go."""
    closed, told = [], []
    scheduler = Scheduler(on_event=told.append)
    done = scheduler.as_completed((i, stepper(lab, i, closed, steps=i + 1)) for i in range(6))
    assert next(done).value == 0
    done.close()
    assert sorted(closed) == list(range(6))
    cancelled = [e.tag for e in told if isinstance(e, events.ProblemDone) and e.cancelled]
    assert cancelled == [1, 2, 3, 4, 5]
    assert not scheduler._core.graphs


def test_an_iterator_that_is_dropped_closes_its_problems(lab):
    """Leaving a for loop early is enough; an iterator never started draws nothing."""
    closed = []
    for done in Scheduler().as_completed((i, stepper(lab, i, closed, steps=i + 1)) for i in range(3)):
        assert done.value == 0
        break
    gc.collect()
    assert sorted(closed) == [0, 1, 2]
    drawn = []
    Scheduler().as_completed((i, stepper(lab, i, drawn)) for i in drawn.append("drawn") or [1])
    assert drawn == ["drawn"]  # the generator expression evaluates its first iterable; no problem was made


def test_an_error_of_the_source_closes_everything_and_is_raised(lab):
    """Problems drawn so far are closed before the caller sees the source's own error."""
    closed = []

    def source():
        yield 0, stepper(lab, 0, closed)
        yield 1, stepper(lab, 1, closed)
        raise LookupError("the list of classes is broken")

    with pytest.raises(LookupError, match="list of classes"):
        list(Scheduler().as_completed(source(), max_live=3))
    assert sorted(closed) == [0, 1]


def test_items_that_are_no_pairs_are_refused(lab):
    """The iterable itself is wrong, so the run ends with a ContractError that says what is wanted."""
    closed = []
    with pytest.raises(ContractError, match="pairs"):
        list(Scheduler().as_completed([(0, stepper(lab, 0, closed)), 7]))


def test_a_problem_that_raises_while_closing_stops_nobody_s_closing(lab, caplog):
    """Its error is logged; the others are still closed, and the caller's own exception is what propagates."""
    closed = []

    def ill_behaved():
        try:
            yield Encode(lab.image, lab.pool)
            yield Encode(lab.image, lab.pool + 1)
            yield Encode(lab.image, lab.pool + 2)
        finally:
            raise OSError("cannot clean up")

    problems = [
        ("brief", lab.encode(lab.image, lab.pool)),
        ("a", stepper(lab, 1, closed)),
        ("ill", ill_behaved()),
        ("b", stepper(lab, 2, closed)),
    ]

    done = Scheduler().as_completed(problems)
    assert next(done).tag == "brief"
    done.close()
    assert sorted(closed) == [1, 2]
    assert "cannot clean up" in caplog.text


def test_a_problem_that_refuses_to_close_stops_nobody_s_closing(lab, caplog):
    """Yielding in a finally block is Python's RuntimeError, logged like any other."""
    closed = []

    def clinging():
        try:
            while True:
                yield Encode(lab.image, torch.randn(1, 12))
        finally:
            yield Encode(lab.image, lab.pool)

    done = Scheduler().as_completed(
        [("cling", clinging()), ("a", stepper(lab, 1, closed)), ("brief", lab.encode(lab.image, lab.pool))]
    )
    assert next(done).tag == "brief"
    done.close()
    assert closed == [1]
    assert "ignored GeneratorExit" in caplog.text


def test_what_a_problem_held_is_free_when_it_ends(lab):
    """After a run neither rows nor features nor graphs of its problems stay in memory."""
    refs = []

    def problem():
        rows = torch.randn(3, 12, requires_grad=True)
        features = yield Encode(lab.image, rows * 2)
        plain = yield Encode(lab.image, rows.detach(), cache=False)
        refs.extend(weakref.ref(tensor) for tensor in (rows, features, plain))
        yield Encode(lab.image, rows * 3)
        yield Backward(features.sum())
        yield Encode(lab.image, rows * 4)

    scheduler = Scheduler(micro_batch=2, graph_rows=100)
    list(scheduler.as_completed((i, problem()) for i in range(3)))
    assert len(refs) == 9
    assert all(ref() is None for ref in refs)
    assert not scheduler._core.graphs


def test_a_scheduler_is_usable_from_inside_a_problem(lab):
    """Plugin code may call encode, run and as_completed itself; it pays in the problem's session."""
    scheduler = Scheduler(micro_batch=4)

    def plain_function():
        features = scheduler.encode(lab.image, lab.pool)
        inverted = scheduler.run(lab.invert(lab.image, lab.targets[0], lab.pool))
        return features, inverted

    def problem():
        with torch.no_grad():
            yield Encode(lab.image, lab.pool + 1)
            result = plain_function()
            assert not torch.is_grad_enabled()
        return result

    done = {
        d.tag: d
        for d in scheduler.as_completed(
            [("a", problem()), ("b", problem()), *lab.inversions(lab.image)], session=str
        )
    }
    for tag in "ab":
        features, inverted = done[tag].unwrap()
        torch.testing.assert_close(features, lab.net(lab.pool))
        torch.testing.assert_close(inverted, lab.alone[0], rtol=1e-5, atol=1e-6)
    assert scheduler.counts("a").backward_rows == 15
    assert scheduler.counts("").forward_rows == 0
