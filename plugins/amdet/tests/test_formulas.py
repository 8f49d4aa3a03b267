"""The pure functions compute what the paper's code computes, written plainly here."""

from __future__ import annotations

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec_amdet import (
    Shares,
    assimilation,
    convex_share,
    decide,
    decide_paired,
    hessian_eigenvalues,
    insert,
    likeness,
    objective,
    paired_objective,
    search_directions,
    thresholds_of,
)
from clipsec_amdet._decision import shares_of
from clipsec_amdet._landscape import grid_points
from clipsec_amdet._search import shortened

THRESHOLDS = thresholds_of("clip")
seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
def test_assimilation_is_the_mean_over_all_pairs(seed: int) -> None:
    """The closed form is the mean of the [T, T] table of cosines, diagonal included."""
    hidden = draw(seed, 3, 7, 5)
    table = F.cosine_similarity(hidden[:, :, None], hidden[:, None], dim=-1)
    assert torch.allclose(assimilation(hidden), table.mean(dim=(1, 2)))


@given(seeds)
def test_masked_tokens_do_not_count(seed: int) -> None:
    """With a mask the terms are those of the row cut to its tokens."""
    hidden, other = draw(seed, 2, 9, 5), draw(seed + 1, 2, 9, 5)
    mask = torch.arange(9) < 4
    mask = mask.expand(2, -1)
    assert torch.allclose(assimilation(hidden, mask), assimilation(hidden[:, :4]))
    assert torch.allclose(likeness(hidden, other, mask), likeness(hidden[:, :4], other[:, :4]))


@given(seeds)
def test_the_paired_objective_is_the_difference_of_two_tables(seed: int) -> None:
    """The reference's mean cosine over all tokens of all prompts, less the suspect's."""
    hidden, anchor = draw(seed, 3, 4, 5), draw(seed + 1, 3, 4, 5)
    tables = [
        F.cosine_similarity(f[:, None], f[None], dim=-1) for f in (hidden.flatten(0, 1), anchor.flatten(0, 1))
    ]
    assert torch.allclose(paired_objective(hidden, anchor), tables[1].mean() - tables[0].mean())


@given(seeds, st.floats(0.01, 5.0))
def test_vectors_are_shortened_and_never_turned(seed: int, longest: float) -> None:
    """Long ones become as long as they may be, short ones stay, directions too."""
    vectors = draw(seed, 4, 6)
    cut = shortened(vectors, longest)
    assert torch.allclose(cut.norm(dim=1), vectors.norm(dim=1).clamp(max=longest))
    assert torch.allclose(F.normalize(cut, dim=1), F.normalize(vectors, dim=1))


def test_the_paired_decision_is_strict() -> None:
    """A difference equal to the threshold does not flag."""
    assert not decide_paired(THRESHOLDS.gap, THRESHOLDS).flagged
    assert decide_paired(THRESHOLDS.gap + 1e-6, THRESHOLDS).flagged


@given(seeds)
def test_the_objective_is_the_published_sum(seed: int) -> None:
    """-A + 0.1 S + 0.1 D, each written out."""
    hidden, clean, anchor = (draw(seed + i, 2, 6, 4) for i in range(3))
    table = F.cosine_similarity(hidden[:, :, None], hidden[:, None], dim=-1).mean(dim=(1, 2))
    away = [F.cosine_similarity(hidden, each, dim=-1).mean(dim=1) for each in (clean, anchor)]
    assert torch.allclose(objective(hidden, clean, anchor), -table + 0.1 * away[0] + 0.1 * away[1])


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("at", [0, 1])
def test_inserting_shifts_and_cuts(vectors: int, at: int) -> None:
    """Tokens before stay, tokens behind move by k with their own positions, the last k fall off."""
    rows, new = draw(0, 2, 6, 4), draw(1, vectors, 4)
    found = insert(rows, new, at)
    assert found.shape == rows.shape
    assert torch.equal(found[:, :at], rows[:, :at])
    assert torch.equal(found[:, at : at + vectors], new.expand(2, -1, -1))
    assert torch.equal(found[:, at + vectors :], rows[:, at : 6 - vectors])


@given(seeds)
def test_eigenvalues_are_those_of_the_matrix(seed: int) -> None:
    """At each inner point: second differences with unit spacing, the mixed one over four."""
    z = draw(seed, 5, 6)
    expected = []
    for i in range(1, 4):
        for j in range(1, 5):
            xx = z[i + 1, j] - 2 * z[i, j] + z[i - 1, j]
            yy = z[i, j + 1] - 2 * z[i, j] + z[i, j - 1]
            xy = (z[i + 1, j + 1] - z[i + 1, j - 1] - z[i - 1, j + 1] + z[i - 1, j - 1]) / 4
            expected.append(torch.linalg.eigvalsh(torch.stack([xx, xy, xy, yy]).reshape(2, 2)))
    assert torch.allclose(hessian_eigenvalues(z), torch.stack(expected), atol=1e-12)


def test_a_bowl_is_convex_and_a_dome_is_not() -> None:
    """Every curvature of a bowl is positive, none of a dome; half of a saddle's; a plane has none."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)
    bowl = x[:, None] ** 2 + x[None] ** 2
    assert convex_share(bowl) == 1.0
    assert convex_share(-bowl) == 0.0
    assert convex_share(x[:, None] ** 2 - x[None] ** 2) == 0.5
    assert convex_share(torch.zeros(5, 5)) == 0.0


@given(seeds, st.integers(1, 3))
def test_directions_are_orthonormal_and_the_first_goes_down(seed: int, k: int) -> None:
    """Unit length, at a right angle, for any number of vectors."""
    gradient, noise = draw(seed, k, 6), draw(seed + 1, k, 6)
    down, across = search_directions(gradient, noise)
    assert float(down.norm()) == pytest.approx(1)
    assert float(across.norm()) == pytest.approx(1)
    assert float((down * across).sum()) == pytest.approx(0, abs=1e-9)
    assert float((down * gradient).sum()) < 0


def test_the_grid_is_centred_on_the_vector() -> None:
    """Corners and middle lie where the directions say."""
    vector, down, across = draw(0, 1, 4), draw(1, 1, 4), draw(2, 1, 4)
    grid = grid_points(vector, down, across, reach=10.0, points=5).reshape(5, 5, 1, 4)
    assert torch.allclose(grid[2, 2], vector)
    assert torch.allclose(grid[0, 4], vector - 10 * down + 10 * across)
    assert torch.allclose(grid[3, 2], vector + 5 * down)


def test_the_reference_prompt_is_not_counted() -> None:
    """The share of prompts sent to one place leaves out the first, so that few prompts can reach 1."""
    one = torch.ones(10)
    shares = shares_of(one, one, -one, THRESHOLDS)
    assert (shares.collapsed, shares.same, shares.different) == (1, 1, 1)
    first_alone = torch.cat([torch.ones(1), torch.zeros(9)])
    assert shares_of(one, first_alone, -one, THRESHOLDS).same == 0


GOOD = Shares(collapsed=0.95, same=1.0, different=1.0, convex=0.9)


def test_all_tests_must_pass() -> None:
    """Flagged only when each of the four shares exceeds its threshold; the weakest is named."""
    assert decide(GOOD, THRESHOLDS).flagged
    for name, value, test in (
        ("collapsed", 0.8, "collapse"),
        ("same", 0.99, "same place"),
        ("different", 0.5, "reference differs"),
        ("convex", 0.79, "landscape"),
    ):
        decision = decide(attrs.evolve(GOOD, **{name: value}), THRESHOLDS)
        assert not decision.flagged
        assert decision.weakest == test
        assert decision.margin <= 0


def test_a_landscape_that_was_not_looked_at_flags_nothing() -> None:
    """Without it no start is a finding, whatever the other tests say."""
    assert not decide(attrs.evolve(GOOD, convex=None), THRESHOLDS).flagged


@pytest.mark.parametrize("family", ["clip", "long-clip", "siglip"])
def test_every_family_says_where_its_thresholds_come_from(family: str) -> None:
    """The published constants, with a source; none claims to be calibrated that is not."""
    limits = thresholds_of(family)
    assert (limits.collapsed_share, limits.same_share, limits.different_share) == (0.8, 0.995, 0.95)
    assert (limits.assimilation, limits.same, limits.different, limits.convex_share) == (0.8, 0.92, 0, 0.8)
    assert "code" in limits.source
    assert not limits.calibrated
