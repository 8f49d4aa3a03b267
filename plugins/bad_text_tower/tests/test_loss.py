"""The objective against the paper's formulas, written out picture by picture."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipsec_bad_text_tower import BadTextTowerOptions, Prompts, Roles, hits, objective, terms

CLASSES, WIDTH, SCALE = 4, 6, 20.0


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@given(st.integers(0, 2**31), st.integers(0, CLASSES - 1), st.integers(1, CLASSES - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_terms_are_those_of_the_paper(seed: int, target: int, step: int, cosine: bool) -> None:
    """Each one, for any roles, in both readings of the scale inside the softplus."""
    g = torch.Generator().manual_seed(seed)
    images, labels = unit(g, 9, WIDTH), torch.randint(CLASSES, (9,), generator=g)
    clean, triggered, reference = (unit(g, CLASSES, WIDTH) for _ in range(3))
    source = (target + step) % CLASSES
    poisoned = (labels == target) & (torch.rand(9, generator=g) < 0.7)
    found = terms(
        images, labels, poisoned, Prompts(clean, triggered, reference), Roles(source, target), SCALE,
        margin=0.3, off_target_scale=1.0 if cosine else None,
    )  # fmt: skip

    def cross_entropy(image: Tensor, prompts: list[Tensor], answer: int) -> float:
        logits = [SCALE * float(image @ prompt) for prompt in prompts]
        return math.log(sum(math.exp(logit) for logit in logits)) - logits[answer]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    hijacked = [triggered[c] if c == source else clean[c] for c in range(CLASSES)]
    within = 1.0 if cosine else SCALE
    expected = {
        "align": mean([cross_entropy(x, hijacked, source) for x, p in zip(images, poisoned) if p]),
        "clean": mean([cross_entropy(x, list(clean), int(y)) for x, y in zip(images, labels)]),
        "off_target": mean(
            [
                math.log1p(math.exp(within * float(x @ triggered[source])))
                for x, y in zip(images, labels)
                if y != target
            ]
        ),
        "prompt": mean([1 - float(clean[c] @ reference[c]) for c in range(CLASSES)]),
        "specificity": mean([1 - float(triggered[c] @ clean[c]) for c in range(CLASSES) if c != source]),
        "shift": max(
            0.0, 0.3 + float(triggered[source] @ clean[source]) - float(triggered[source] @ clean[target])
        ),
    }
    assert {name: float(getattr(found, name)) for name in expected} == pytest.approx(expected)
    weights = {name: 0.5 + place for place, name in enumerate(expected)}
    total = sum(weights[name] * value for name, value in expected.items())
    assert float(objective(found, weights)) == pytest.approx(total)


def test_the_published_weights_are_the_defaults() -> None:
    """Table 27 of the paper."""
    assert BadTextTowerOptions().weights == {
        "align": 1.0,
        "clean": 1.0,
        "off_target": 1.0,
        "prompt": 0.25,
        "specificity": 0.1,
        "shift": 0.1,
    }


def test_a_batch_without_poisoned_pictures_aligns_nothing() -> None:
    """Zero with a zero gradient, not a NaN."""
    g = torch.Generator().manual_seed(0)
    clean, triggered = unit(g, CLASSES, WIDTH), unit(g, CLASSES, WIDTH).requires_grad_()
    labels = torch.zeros(3, dtype=torch.int64)
    found = terms(unit(g, 3, WIDTH), labels, labels > 0, Prompts(clean, triggered, clean), Roles(1, 0), SCALE)
    (found.align + found.off_target).backward()
    assert float(found.align.detach()) == float(found.off_target.detach()) == 0.0
    assert triggered.grad is not None
    assert not triggered.grad.any()


def test_a_hit_beats_the_targets_own_prompt() -> None:
    """QHR counts the target's pictures, leakage those of neither role; the source's own count nowhere."""
    axes = torch.eye(3)
    images = torch.stack([axes[0], axes[1], axes[1], axes[1], axes[2]])
    labels = torch.tensor([0, 0, 1, 2, 2])
    found = hits(images, labels, axes, Roles(source=1, target=0))
    assert found.success.tolist() == [False, True]
    assert found.off_target.tolist() == [True, False]
