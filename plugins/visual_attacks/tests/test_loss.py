"""The objective and the probe, against their formulas written out."""

from __future__ import annotations

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.errors import UsageError
from clipsec_visual_attacks import Features, linear_probe, objective, probe_answers, terms, white_patch
from clipsec_visual_attacks._measure import rates
from clipsec_visual_attacks._train import augment


def drawn(n: int, r: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    rows = {
        "triggered": n,
        "shadow": n,
        "clean_shadow": n,
        "reference": r,
        "augmented": r,
        "clean_reference": r,
    }
    return Features(**{name: torch.randn(count, 5, generator=generator) for name, count in rows.items()})


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_terms_are_the_papers(n: int, r: int, seed: int) -> None:
    """L0 over all pairs of triggered picture and reference; L1 and L2 picture by picture, against the clean
    tower; none depends on the length of a feature."""
    given_ = drawn(n, r, seed)
    found = terms(given_)
    pairs = [F.cosine_similarity(x, y, dim=0) for x in given_.triggered for y in given_.reference]
    torch.testing.assert_close(found.effectiveness, -torch.stack(pairs).mean())
    kept = F.cosine_similarity(given_.augmented, given_.clean_reference)
    torch.testing.assert_close(found.reference, -kept.mean())
    torch.testing.assert_close(found.utility, -F.cosine_similarity(given_.shadow, given_.clean_shadow).mean())
    longer = terms(
        attrs.evolve(given_, triggered=3 * given_.triggered, clean_reference=7 * given_.clean_reference)
    )
    torch.testing.assert_close(objective(longer), objective(found))
    weighted = found.effectiveness + 2 * found.reference + 0.5 * found.utility
    torch.testing.assert_close(objective(found, 2.0, 0.5), weighted)


def test_the_clean_tower_gets_no_gradient_but_the_reference_does() -> None:
    """References move towards triggered pictures too, as published; what they are held to does not."""
    given_ = drawn(3, 2, 0)
    moving = {name: value.requires_grad_() for name, value in attrs.asdict(given_, recurse=False).items()}
    terms(given_).effectiveness.backward()
    assert {name for name, value in moving.items() if value.grad is not None} == {"triggered", "reference"}


@given(st.integers(8, 64), st.floats(0.02, 0.5), st.floats(0, 0.5))
@settings(max_examples=50, deadline=None)
def test_a_patch_changes_its_square_and_nothing_else(size: int, side: float, place: float) -> None:
    """White inside of it, bit-equal outside, of the asked side to the pixel."""
    stamp = white_patch(size, side, place)
    pixels = torch.rand(2, 3, size, size) * 0.9
    stamped = stamp.apply(pixels)
    inside = stamp.tensors["mask"].bool().expand_as(pixels)
    assert bool((stamped[inside] == 1).all())
    assert torch.equal(stamped[~inside], pixels[~inside])
    assert int(stamp.tensors["mask"].sum()) == max(1, round(side * size)) ** 2


def test_a_patch_that_does_not_fit_is_refused() -> None:
    """With what to change."""
    with pytest.raises(UsageError, match="does not fit") as caught:
        white_patch(32, 0.5, 0.9)
    assert "at most 1" in caught.value.remedy


def test_published_patch_sizes() -> None:
    """DECREE's 24 x 24 at rows 185 to 208 of 224 pixels is the default."""
    mask = white_patch(224, 24 / 224, 185 / 224).tensors["mask"][0]
    rows = mask.any(dim=1).nonzero()[:, 0].tolist()
    assert (rows[0], rows[-1], len(rows)) == (185, 208, 24)


def test_the_probe_is_a_minimum() -> None:
    """The gradient of its penalised loss is zero there, and it separates what can be separated."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 6, generator=generator) * 0.3 + F.one_hot(labels, 6)
    weight = linear_probe(features, labels, 3).requires_grad_()
    design = torch.cat([10 * F.normalize(features.double(), dim=1), torch.ones(60, 1)], dim=1)
    loss = F.cross_entropy(design @ weight, labels, reduction="sum") + 0.5 * weight[:-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().max()) < 1e-3
    assert float((probe_answers(weight.detach(), features) == labels).float().mean()) > 0.9


def test_rates_leave_the_target_out() -> None:
    """Success and natural are over other classes' pictures, accuracy over all."""
    labels, clean, stamped = (
        torch.tensor([0, 0, 1, 2]),
        torch.tensor([0, 1, 0, 2]),
        torch.tensor([1, 1, 0, 0]),
    )
    found = rates(clean, stamped, labels, 0)
    assert [(found[name]["successes"], found[name]["n"]) for name in ("accuracy", "success", "natural")] == [
        (2, 4),
        (2, 2),
        (1, 2),
    ]


def test_augmentation_is_seeded_and_leaves_the_global_generator() -> None:
    """Equal seeds, equal pictures, in [0, 1]; pictures of a batch are drawn apart."""
    pixels = torch.rand(1, 3, 8, 8).expand(6, 3, 8, 8)
    state = torch.get_rng_state()
    first, again = (augment(pixels, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert len({tuple(picture.flatten().tolist()) for picture in first}) > 1
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
