from __future__ import annotations

import torch
from torch import nn

from clipsec.scheduler import Scheduler, Tower
from clipsec_clip_inspector._inversion import Search, evaluate, invert

SIZE, CLASSES = 8, 5


def towers() -> tuple[Tower, Tower]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3 * SIZE * SIZE, generator=generator) / 10
    head = torch.randn(CLASSES, 6, generator=generator)
    image = Tower("image", lambda rows: torch.tanh(rows.flatten(1) @ weight.T), "image")
    return image, Tower("head", lambda rows: nn.functional.normalize(rows, dim=1) @ head.T * 16, "head")


def pool(n: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).byte()


def plain_inversion(
    image: Tower, head: Tower, pixels: torch.Tensor, target: int, epsilon: float
) -> torch.Tensor:
    """The paper's recipe as a reader would write it."""
    delta = torch.zeros(3, SIZE, SIZE, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.1)
    for batch in pixels.split(8):
        logits = head.fn(image.fn((batch.float() / 255 + delta).clamp(0, 1)))
        others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
        loss = (others.max(dim=1).values - logits[:, target]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-epsilon, epsilon)
    return delta.detach()


def test_all_classes_at_once_equal_the_plain_loop() -> None:
    """Concurrent inversions through the scheduler find what a plain loop class by class finds."""
    image, head = towers()
    pixels, epsilon = pool(), 12 / 255
    problems = (
        (
            t,
            invert(
                image, head, pixels, t, batches=torch.arange(20).split(8), epsilon=epsilon, learning_rate=0.1
            ),
        )
        for t in range(CLASSES)
    )
    for done in Scheduler().as_completed(problems):
        expected = plain_inversion(image, head, pixels, done.tag, epsilon)
        torch.testing.assert_close(done.unwrap().delta, expected, rtol=1e-4, atol=1e-6)
        assert len(done.unwrap().trajectory) == 3


def test_evaluation_shares_features_between_heads() -> None:
    """Two heads on one tower cost one pass of the tower, and give each its own margins."""
    image, head = towers()
    other = Tower("other", lambda rows: -head.fn(rows), "other")
    scheduler = Scheduler()
    pixels, delta = pool(), torch.full((3, SIZE, SIZE), 0.02)
    both = scheduler.run(evaluate([(image, head), (image, other)], pixels, delta, 2))
    assert both.shape == (2, 20)
    first = scheduler.counts().forward_rows
    assert first == 3 * 20
    alone = scheduler.run(evaluate([(image, other)], pixels, delta, 2))
    assert torch.equal(alone[0], both[1])


def test_result_does_not_depend_on_neighbours() -> None:
    """A class inverted alone is bit-equal to the same class among others."""
    image, head = towers()
    pixels = pool()

    def problem(target: int) -> object:
        return invert(
            image, head, pixels, target, batches=torch.arange(20).split(8), epsilon=0.05, learning_rate=0.1
        )

    together = {d.tag: d.value for d in Scheduler().as_completed((t, problem(t)) for t in range(CLASSES))}
    alone = Scheduler().run(problem(3))
    assert torch.equal(together[3].delta, alone.delta)
    assert together[3].trajectory == alone.trajectory


def test_a_search_that_stopped_in_between_ends_where_it_would_have() -> None:
    """Bit for bit."""
    image, head = towers()
    settings = {"batches": torch.arange(20).split(4), "epsilon": 0.05, "learning_rate": 0.1}
    whole, paused = (Search(image, head, pool(), 2, **settings) for _ in range(2))
    Scheduler().run(whole.go_on(5))
    for until in (1, 3, 3, 5):
        Scheduler().run(paused.go_on(until))
    assert torch.equal(whole.delta, paused.delta)
    assert whole.steps == paused.steps
