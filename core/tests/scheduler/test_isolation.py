"""What goes wrong in one problem, row or tower stays there."""

from __future__ import annotations

import pytest
import torch

from clipsec.errors import ContractError
from clipsec.scheduler import Backward, Encode, FeatureCache, Gather, Scheduler, Tower


def results(scheduler, problems, **options):
    return {d.tag: d for d in scheduler.as_completed(problems, **options)}


@pytest.mark.parametrize("step", range(5))
def test_a_plugin_that_raises_takes_nobody_along(lab, step):
    """Its error is in its Done; the nine neighbours get what they would get alone."""
    problems = [
        (i, lab.invert(lab.image, lab.targets[i], lab.pool, fail_at=step if i == 4 else None))
        for i in range(10)
    ]
    done = results(Scheduler(micro_batch=32), problems)
    assert isinstance(done[4].error, ValueError)
    with pytest.raises(ValueError, match="on purpose"):
        done[4].unwrap()
    for i in set(range(10)) - {4}:
        torch.testing.assert_close(done[i].unwrap(), lab.alone[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_tower_that_chokes_on_some_rows_fails_their_owner_only(lab, with_gradient):
    """A batch that raises is repeated owner by owner; the error carries the tower's frames as a note."""

    def forward(rows):
        if (rows > 1e3).any():
            raise RuntimeError("bad row")
        return lab.net(rows)

    tower = lab.tower(forward)
    good = torch.randn(2, 12)

    def problem(rows):
        rows = rows.clone().requires_grad_(with_gradient)
        return (yield Encode(tower, rows)).detach()

    rows = {"a": good, "bad": torch.full((2, 12), 1e4), "b": good + 1}
    done = results(Scheduler(micro_batch=8), ((tag, problem(r)) for tag, r in rows.items()))
    assert "bad row" in str(done["bad"].error)
    assert any("in forward" in note for note in done["bad"].error.__notes__)
    torch.testing.assert_close(done["a"].unwrap(), lab.net(good))
    torch.testing.assert_close(done["b"].unwrap(), lab.net(good + 1))


def test_graphs_of_a_call_that_fails_half_way_are_let_go(lab):
    """Chunks that were computed before the bad one leave nothing behind; the plugin may go on."""

    def forward(rows):
        if (rows > 1e3).any():
            raise RuntimeError("bad row")
        return lab.net(rows)

    rows = torch.randn(6, 12)
    rows[5] = 1e4
    scheduler = Scheduler(micro_batch=2, graph_rows=100)

    def problem():
        with pytest.raises(RuntimeError, match="bad row"):
            yield Encode(lab.tower(forward), rows.requires_grad_(True))
        assert not scheduler._core.graphs
        return (yield Encode(lab.tower(forward), lab.pool))

    torch.testing.assert_close(scheduler.run(problem()), lab.net(lab.pool))


def test_a_backward_that_chokes_on_some_rows_fails_their_owner_only(lab, trip_backward):
    """The vjp of a shared batch is repeated owner by owner."""

    def trip(gradient):
        if gradient.isnan().any():
            raise ArithmeticError("NaN gradient")

    tower = lab.tower(lambda rows: lab.net(trip_backward(rows, trip)))

    def problem(scale):
        rows = lab.pool.clone().requires_grad_(True)
        yield Backward((yield Encode(tower, rows)).sum() * scale)
        return rows.grad

    done = results(Scheduler(micro_batch=16), ((s, problem(s)) for s in (1.0, float("nan"), 2.0)))
    assert [type(d.error) for d in done.values()].count(ArithmeticError) == 1
    torch.testing.assert_close(done[2.0].unwrap(), 2 * done[1.0].unwrap())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_rows_stay_in_their_rows(lab, dtype):
    """A NaN row gives NaN features and NaN gradients to its own problem, and not a changed bit to another."""
    net = lab.net.to(dtype)
    tower = lab.tower(net, dtype=dtype)

    def problem(rows):
        rows = rows.clone().requires_grad_(True)
        features = yield Encode(tower, rows)
        yield Backward(features.square().sum())
        plain = yield Encode(tower, rows.detach())
        return features.detach(), rows.grad, plain

    broken = lab.pool.clone()
    broken[1] = float("nan")
    alone = Scheduler(micro_batch=8).run(problem(lab.pool))
    done = results(Scheduler(micro_batch=8), [("nan", problem(broken)), ("fine", problem(lab.pool))])
    for got, expected in zip(done["fine"].unwrap(), alone):
        assert torch.equal(got, expected)
    for got, expected in zip(done["nan"].unwrap(), alone):
        assert got[1].isnan().all()
        assert torch.equal(got[[0, 2]], expected[[0, 2]])


RUBBISH = {
    "nothing": lambda lab: None,
    "a tensor": lambda lab: lab.pool,
    "a module for a tower": lambda lab: Encode(lab.net, lab.pool),
    "a list of rows": lambda lab: Encode(lab.image, [1.0]),
    "no rows": lambda lab: Encode(lab.image, lab.pool[:0]),
    "a scalar": lambda lab: Encode(lab.image, torch.tensor(1.0)),
    "a sparse tensor": lambda lab: Encode(lab.image, lab.pool.to_sparse()),
    "aux of another length": lambda lab: Encode(lab.image, lab.pool, (lab.pool[:1],)),
    "aux that is no tuple": lambda lab: Encode(lab.image, lab.pool, [lab.pool]),
    "too few keys": lambda lab: Encode(lab.image, lab.pool, row_keys=[b"1"]),
    "keys that are no bytes": lambda lab: Encode(lab.image, lab.pool, row_keys=[1, 2, 3]),
    "an odd batch": lambda lab: Encode(lab.image, lab.pool, micro_batch=3),
    "an odd batch of the tower": lambda lab: Encode(lab.tower(micro_batch=12), lab.pool),
    "a number for a loss": lambda lab: Backward(1.0),
    "a number to gather": lambda lab: Gather(3),
    "no live problems": lambda lab: Gather([], max_live=0),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_a_request_that_breaks_the_protocol_is_refused(lab, kind):
    """The plugin gets ContractError with a remedy at its yield; it may catch it and go on."""

    def problem():
        with pytest.raises(ContractError) as caught:
            yield RUBBISH[kind](lab)
        assert caught.value.remedy
        return (yield Encode(lab.image, lab.pool))

    assert torch.equal(Scheduler().run(problem()), Scheduler().encode(lab.image, lab.pool))


def test_a_plugin_that_yields_nothing_but_rubbish_is_failed(lab):
    """Catching every ContractError and answering with the next broken request ends at some point."""
    closed = []

    def stubborn():
        try:
            while True:
                try:
                    yield "rubbish"
                except ContractError:
                    continue
        finally:
            closed.append(True)

    done = results(Scheduler(), [("stubborn", stubborn()), ("fine", lab.encode(lab.image, lab.pool))])
    assert isinstance(done["stubborn"].error, ContractError)
    assert done["fine"].error is None
    assert closed == [True]


def test_something_that_is_no_generator_fails_as_a_problem(lab):
    """Forgetting to call the generator function costs that problem, not the run."""
    done = results(Scheduler(), [("function", lab.encode), ("fine", lab.encode(lab.image, lab.pool))])
    assert isinstance(done["function"].error, ContractError)
    assert done["fine"].error is None


@pytest.mark.parametrize(
    "forward",
    [lambda rows: rows[:-1], lambda rows: rows.long(), lambda rows: None, lambda rows: rows.sum()],
    ids=["too few rows", "whole numbers", "nothing", "a scalar"],
)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_tower_that_breaks_its_contract_is_named(lab, forward, with_gradient):
    """A wrong number of rows or a wrong type is a ContractError, never a mix-up of rows."""
    problem = lab.encode(lab.tower(forward), lab.pool.clone().requires_grad_(with_gradient))
    with pytest.raises(ContractError, match="image"):
        Scheduler(micro_batch=4).run(problem)


def test_a_tower_that_cuts_the_graph_is_named(lab):
    """A tower that detaches would give silent zeros as gradient; it is an error instead."""
    detaching = lab.tower(lambda rows: lab.net(rows.detach()))
    with pytest.raises(ContractError, match="gradient"):
        Scheduler().run(lab.encode(detaching, lab.pool.clone().requires_grad_(True)))


@pytest.mark.parametrize("with_gradient", [False, True])
def test_writing_into_an_answer_reaches_nobody_else(lab, with_gradient):
    """Answers are the plugin's own: not the cache's, not the batch's, not those of who asked for the same."""
    scheduler = Scheduler(micro_batch=8)
    right = lab.net(lab.pool)

    def vandal():
        features = yield Encode(lab.image, lab.pool.clone().requires_grad_(with_gradient))
        with torch.no_grad():
            features.fill_(-1)
        yield Encode(lab.image, lab.pool + 1)

    def bystander():
        rows = lab.pool.clone().requires_grad_(with_gradient)
        features = yield Encode(lab.image, rows)
        again = yield Encode(lab.image, lab.pool)
        torch.testing.assert_close(features.detach(), right)
        torch.testing.assert_close(again, right)

    done = results(scheduler, [("vandal", vandal()), ("bystander", bystander())])
    assert done["bystander"].unwrap() is None
    torch.testing.assert_close(scheduler.encode(lab.image, lab.pool), right)


def test_writing_into_rows_after_the_gradient_request_changes_nothing(lab):
    """The batch is a copy: a plugin may reuse its buffer, also when its rows are computed a second time."""
    buffer = torch.zeros(6, 12)

    def problem():
        leaf = lab.pool.repeat(2, 1).requires_grad_(True)
        rows = leaf * 1.0
        features = yield Encode(lab.image, rows)
        with torch.no_grad():
            rows.copy_(buffer)
        yield Backward(features.sum())
        return leaf.grad

    expected = lab.uncut(problem())
    torch.testing.assert_close(Scheduler(micro_batch=2, graph_rows=0).run(problem()), expected)


def test_rows_changed_while_they_wait_never_enter_the_cache(lab):
    """A neighbour that writes into shared rows would poison the cache under their old name: refused."""
    shared = lab.pool.clone()
    scheduler = Scheduler(micro_batch=4)

    def writer():
        yield Encode(lab.image, lab.pool + 5)
        shared.add_(1)
        yield Encode(lab.image, lab.pool + 6)

    problems = [
        ("writer", writer()),
        ("victim", lab.encode(lab.image, shared, micro_batch=2)),
        ("elsewhere", lab.encode(lab.image, torch.cat([shared, shared])[:3], micro_batch=2)),
    ]
    done = results(scheduler, problems)
    assert isinstance(done["victim"].error, ContractError)
    torch.testing.assert_close(done["elsewhere"].unwrap(), lab.net(lab.pool))
    torch.testing.assert_close(scheduler.encode(lab.image, shared), lab.net(shared))


def test_a_changed_tower_is_noticed_when_asked_to(lab):
    """With check_towers a plugin that writes into a tower's weights stops the run, and is named."""
    net = torch.nn.Linear(12, 8).requires_grad_(False)
    tower = Tower("linear", net, "linear")

    def vandal():
        yield Encode(tower, lab.pool)
        net.weight.mul_(1.001)
        return (yield Encode(tower, lab.pool + 1))

    def innocent():
        yield Encode(tower, lab.pool + 2)
        yield Encode(tower, lab.pool + 3)

    with pytest.raises(ContractError, match=r"'linear'.*'vandal'"):
        results(Scheduler(check_towers=True), [("innocent", innocent()), ("vandal", vandal())])
    assert results(Scheduler(check_towers=True), [("innocent", innocent())])["innocent"].error is None


def test_grad_mode_is_each_problem_s_own(lab):
    """A yield inside torch.no_grad leaves the neighbours' mode alone, and finds its own again."""

    def quiet():
        with torch.no_grad():
            for _ in range(3):
                yield Encode(lab.image, lab.pool)
                assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()

    with torch.no_grad():
        done = results(Scheduler(micro_batch=4), [("quiet", quiet()), *lab.inversions(lab.image)])
        assert not torch.is_grad_enabled()
    assert done["quiet"].error is None
    for i in range(10):
        torch.testing.assert_close(done[i].unwrap(), lab.alone[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["inference", "autocast"],
)
def test_modes_that_would_reach_the_neighbours_are_refused(lab, mode):
    """A yield inside autocast or inference mode is a ContractError; outside of the block all is well
    again."""

    def leaky():
        with pytest.raises(ContractError), mode():
            yield Encode(lab.image, lab.pool)
        return (yield Encode(lab.image, lab.pool))

    done = results(Scheduler(micro_batch=32), [("leaky", leaky()), *lab.inversions(lab.image)])
    assert torch.equal(done["leaky"].unwrap(), Scheduler(micro_batch=32).encode(lab.image, lab.pool))
    for i in range(10):
        torch.testing.assert_close(done[i].unwrap(), lab.alone[i], rtol=1e-5, atol=1e-6)


def test_the_caller_s_modes_do_not_reach_the_towers(lab):
    """Under the caller's autocast and inference mode the features are bit-equal to those without."""
    expected = Scheduler().encode(lab.image, lab.pool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Scheduler(cache=FeatureCache(0)).encode(lab.image, lab.pool), expected)
    with torch.inference_mode():
        scheduler = Scheduler()
        features = scheduler.encode(lab.image, lab.pool)
        gradient = scheduler.run(lab.invert(lab.image, lab.targets[0], lab.pool.clone()))
    assert torch.equal(features, expected)
    assert not features.is_inference()
    torch.testing.assert_close(gradient, lab.alone[0], rtol=1e-5, atol=1e-6)
