"""Small real towers and problems, and the reference that every scheduler result is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipsec.scheduler import Backward, Done, Encode, Gather, Problem, Tower

WIDTH, EMBED, CLASSES = 12, 8, 5


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


def _mlp(*sizes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        return nn.Sequential(*layers[:-1]).requires_grad_(False)


def _uncut(problem: Problem) -> Any:
    """The reference: the same problem on its own, with one autograd graph through towers and glue."""
    value: Any = None
    while True:
        try:
            request = problem.send(value)
        except StopIteration as stop:
            return stop.value
        if isinstance(request, Encode):
            with torch.set_grad_enabled(request.rows.requires_grad):
                value = request.tower.fn(request.rows, *request.aux).float()
        elif isinstance(request, Backward):
            request.loss.backward()
            value = None
        else:
            assert isinstance(request, Gather)
            value = [_uncut_done(tag, child) for tag, child in request.problems]


def _uncut_done(tag: Any, problem: Problem) -> Done:
    try:
        return Done(tag, _uncut(problem))
    except Exception as error:
        return Done(tag, error=error)


def _invert(
    tower: Tower, target: Tensor, pool: Tensor, steps: int = 5, fail_at: int | None = None
) -> Problem:
    """Trigger inversion in small: one additive trigger that turns all of the pool towards the target."""
    trigger = torch.zeros(pool.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([trigger], lr=0.1)
    for step in range(steps):
        if step == fail_at:
            raise ValueError("the plugin fails on purpose")
        features = yield Encode(tower, pool + trigger)
        loss = (1 - torch.cosine_similarity(features, target[None])).mean() + 1e-3 * trigger.abs().sum()
        optimiser.zero_grad()
        yield Backward(loss)
        optimiser.step()
    return trigger.detach()


def _encode(tower: Tower, rows: Tensor, **options: Any) -> Problem:
    return (yield Encode(tower, rows, **options))


@pytest.fixture
def lab() -> SimpleNamespace:
    """Towers (`image` 12 -> 8, `head` 8 -> 5), a pool of 3 rows, 10 targets, problems and the reference."""
    torch.manual_seed(0)
    image, head = _mlp(WIDTH, 64, EMBED, seed=1), _mlp(EMBED, 32, CLASSES, seed=2)

    def tower(fn: Callable[..., Tensor] = image, key: str = "image", **options: Any) -> Tower:
        return Tower(key, fn, key, **options)

    pool, targets = torch.randn(3, WIDTH), torch.randn(10, EMBED)

    def inversions(tower: Tower, **options: Any) -> Iterator[tuple[int, Problem]]:
        return ((i, _invert(tower, targets[i], pool, **options)) for i in range(10))

    plain = tower()
    return SimpleNamespace(
        net=image,
        head_net=head,
        tower=tower,
        image=plain,
        head=tower(head, "head"),
        pool=pool,
        targets=targets,
        invert=_invert,
        inversions=inversions,
        encode=_encode,
        uncut=_uncut,
        alone=[_uncut(_invert(plain, target, pool)) for target in targets],
    )


@pytest.fixture
def failing_at() -> Callable[..., Callable[..., Tensor]]:
    """`failing_at(net, k, error)`: the net, but its k-th call raises (counted from 1)."""

    def build(
        net: Callable[..., Tensor], k: int, error: Callable[[], BaseException]
    ) -> Callable[..., Tensor]:
        calls = itertools.count(1)

        def forward(*rows: Tensor) -> Tensor:
            if next(calls) == k:
                raise error()
            return net(*rows)

        return forward

    return build


class _FailingBackward(torch.autograd.Function):
    """Identity whose backward pass raises what `trip` says."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, trip: Callable[[Tensor], None]) -> Tensor:
        ctx.trip = trip
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.trip(gradient)
        return gradient, None


@pytest.fixture
def trip_backward() -> Callable[[Tensor, Callable[[Tensor], None]], Tensor]:
    """`trip_backward(rows, trip)` is `rows`; in the backward pass `trip(gradient)` runs and may raise."""
    return lambda rows, trip: _FailingBackward.apply(rows, trip)


@pytest.fixture(scope="session")
def uncut_done() -> Callable[[Any, Problem], Done]:
    """The reference alone, for hypothesis tests, whose examples share a fixture; errors are in the Done."""
    return _uncut_done
