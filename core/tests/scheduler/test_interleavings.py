"""Random crowds of plugins, with memory running out, plugins failing and callers losing interest."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clipsec.scheduler import Backward, Counts, Encode, FeatureCache, Gather, Scheduler, Tower

WIDTH = 8
POOL = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(1))
NETS = [
    nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)).requires_grad_(False)
    for _ in range(2)
]


class PluginError(Exception):
    """Raised on purpose."""


class Crowd:
    """Towers that run out of memory at chosen calls, and problems that are plain functions of their spec."""

    def __init__(self, out_of_memory_at=(), fits=1 << 30):
        self.calls = itertools.count(1)
        self.out_of_memory_at = set(out_of_memory_at)
        self.fits = fits
        self.begun, self.closed = set(), set()
        self.towers = [Tower(f"net{i}", self._guarded(net), f"net{i}") for i, net in enumerate(NETS)]

    def _guarded(self, net):
        def forward(rows):
            if len(rows) > self.fits or next(self.calls) in self.out_of_memory_at:
                raise torch.OutOfMemoryError("injected")
            return net(rows)

        return forward

    def problem(self, name, spec):
        self.begun.add(name)
        try:
            return (yield from self._steps(name, spec))
        finally:
            self.closed.add(name)

    def _steps(self, name, spec):
        first, count, actions, children = spec
        trigger = torch.zeros(WIDTH, requires_grad=True)
        log = []
        for action in actions:
            rows = POOL[first : first + count]
            if action == "invert":
                features = yield Encode(self.towers[0], rows + trigger)
                yield Backward(features.square().mean() + trigger.sum())
            elif action == "chain":
                features = yield Encode(self.towers[0], rows + trigger)
                logits = yield Encode(self.towers[1], features / features.norm(dim=1, keepdim=True))
                yield Backward(logits.logsumexp(1).mean() + features.mean())
            elif action == "look":
                log.append((yield Encode(self.towers[0], rows)).mean())
            elif action == "ask and forget":
                yield Encode(self.towers[1], rows + trigger)
            elif action == "gather":
                done = yield Gather(
                    ((name, i), self.problem((name, i), child)) for i, child in enumerate(children)
                )
                assert [d.tag for d in done] == [(name, i) for i in range(len(children))]
                log += [d.value[0] for d in done if d.error is None]
            else:
                raise PluginError(name)
            if trigger.grad is not None:
                with torch.no_grad():
                    trigger -= 0.1 * trigger.grad
                trigger.grad = None
        return torch.stack([torch.as_tensor(x).float().sum() for x in [*log, 0.0]]).sum(), trigger.detach()


ACTIONS = ["invert", "invert", "chain", "chain", "look", "ask and forget", "gather", "fail"]


def specs(children):
    return st.tuples(
        st.integers(0, 6), st.integers(1, 6), st.lists(st.sampled_from(ACTIONS), max_size=5), children
    )


spec = specs(st.lists(specs(st.lists(specs(st.just([])), max_size=1)), max_size=3))
schedules = st.fixed_dictionaries(
    {
        "micro_batch": st.sampled_from([1, 4, 8]),
        "graph_rows": st.sampled_from([None, 0, 100]),
        "cache": st.sampled_from([0, 300, 1 << 20]).map(FeatureCache),
    }
)


def check(done, expected):
    """Same kind of ending, same value to rounding."""
    assert type(done.error) is type(expected.error)
    if expected.error is None:
        torch.testing.assert_close(done.value, expected.value, rtol=1e-3, atol=1e-5)


@settings(deadline=None, max_examples=150)
@given(
    crowd=st.lists(spec, min_size=1, max_size=6),
    out_of_memory_at=st.sets(st.integers(1, 60), max_size=4),
    fits=st.sampled_from([1 << 30, 1 << 30, 3, 1]),
    schedule=schedules,
    max_live=st.integers(1, 6),
    sessions=st.integers(1, 3),
)
def test_every_problem_ends_as_it_would_alone(
    uncut_done, crowd, out_of_memory_at, fits, schedule, max_live, sessions
):
    """Whatever runs beside it, however little memory there is, and whoever fails."""
    # At one row there is nothing left to halve: more failures than halvings would rightly reach a problem.
    halvings = schedule["micro_batch"].bit_length() - 1
    here = Crowd(sorted(out_of_memory_at)[:halvings] if fits > 1 << 20 else (), fits)
    scheduler = Scheduler(**schedule)
    problems = ((i, here.problem(i, each)) for i, each in enumerate(crowd))
    done = list(scheduler.as_completed(problems, max_live=max_live, session=lambda tag: str(tag % sessions)))
    assert sorted(d.tag for d in done) == list(range(len(crowd)))
    for d in done:
        check(d, uncut_done(d.tag, Crowd().problem(d.tag, crowd[d.tag])))
    assert here.closed == here.begun
    assert not scheduler._core.graphs
    books_balance(scheduler, sessions)


def books_balance(scheduler, sessions):
    """The sessions' rows add up to the total."""
    each = [scheduler.counts(str(i)) for i in range(sessions)]
    total = scheduler.counts()
    assert isinstance(total, Counts)
    for name in ("forward_rows", "recomputed_rows", "backward_rows", "cached_rows", "padded_rows"):
        assert sum(getattr(counts, name) for counts in each) == getattr(total, name)


@settings(deadline=None, max_examples=60)
@given(
    crowd=st.lists(spec, min_size=1, max_size=6),
    schedule=schedules,
    max_live=st.integers(1, 6),
    taken=st.integers(0, 5),
    interrupted_at=st.one_of(st.none(), st.integers(1, 25)),
)
def test_whenever_the_run_ends_everything_that_began_is_closed(
    uncut_done, crowd, schedule, max_live, taken, interrupted_at
):
    """Closing the iterator after some results, or Ctrl-C in any tower call, leaves nothing behind."""
    here = Crowd()
    calls = itertools.count(1)

    def interrupting(tower):
        def forward(rows):
            if next(calls) == interrupted_at:
                raise KeyboardInterrupt
            return tower.fn(rows)

        return Tower(tower.key, forward, tower.label)

    here.towers = [interrupting(tower) for tower in here.towers]
    scheduler = Scheduler(**schedule)
    problems = ((i, here.problem(i, each)) for i, each in enumerate(crowd))
    run = scheduler.as_completed(problems, max_live=max_live)
    try:
        done = list(itertools.islice(run, taken))
    except KeyboardInterrupt:
        done = []
    run.close()
    assert here.closed == here.begun
    assert not scheduler._core.graphs
    for d in done:
        check(d, uncut_done(d.tag, Crowd().problem(d.tag, crowd[d.tag])))
    # The scheduler is as good as new.
    torch.testing.assert_close(scheduler.encode(Crowd().towers[0], POOL), NETS[0](POOL))


@pytest.mark.parametrize("k", range(1, 40, 3))
@pytest.mark.parametrize("graph_rows", [0, None])
def test_out_of_memory_at_the_kth_call_of_a_busy_crowd(uncut_done, k, graph_rows):
    """Chains, gathers, looks and a failing plugin, with the k-th tower call failing for lack of memory."""
    leaf = (2, 3, ["chain", "invert"], [])
    crowd = [
        (0, 4, ["chain", "look", "chain"], []),
        (3, 5, ["invert", "gather", "invert"], [leaf, leaf]),
        (1, 6, ["chain", "fail"], []),
        (5, 3, ["ask and forget", "chain", "look"], []),
    ]
    here = Crowd([k])
    scheduler = Scheduler(micro_batch=8, graph_rows=graph_rows)
    done = list(scheduler.as_completed((i, here.problem(i, each)) for i, each in enumerate(crowd)))
    for d in done:
        check(d, uncut_done(d.tag, Crowd().problem(d.tag, crowd[d.tag])))
    assert scheduler.counts().degraded <= 1
