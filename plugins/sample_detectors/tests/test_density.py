"""Each statistic is its formula, on exact neighbours; a brute-force search says which these are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipsec_sample_detectors import (
    STATISTICS,
    batches,
    density_scores,
    mismatch,
    neighbourhood,
)

Point = tuple[int, list[float]]


def features(n: int, seed: int, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.randn(n, width, generator=generator) + 0.5


def oracle(points: list[Point], k: int) -> list[list[tuple[float, int]]]:
    """For each point its k nearest others of other pictures, one by one."""
    return [
        sorted((math.dist(here, there), j) for j, (other, there) in enumerate(points) if other != own)[:k]
        for own, here in points
    ]


def expected(pictures: Tensor, captions: Tensor | None, same: list[int], k: int) -> dict[str, list[float]]:
    """The formulas of section 3 of the paper as loops."""
    points: list[Point] = list(zip(same, pictures.tolist(), strict=True))
    if captions is not None:
        points += list(zip(same, captions.tolist(), strict=True))
    near = oracle(points, k)
    reach = [row[-1][0] for row in near]
    size = [-k / sum(math.log(d / row[-1][0] + 1e-4) for d, _ in row) for row in near]
    n = len(pictures)
    return {
        "k-dist": reach[:n],
        "slof": [sum(reach[i] / reach[o] for _, o in near[i]) / k for i in range(n)],
        "lid": size[:n],
        "dao": [sum(size[o] * math.log(reach[i] / reach[o]) for _, o in near[i]) / k for i in range(n)],
    }


@pytest.mark.parametrize("pair_mode", [True, False])
@pytest.mark.parametrize("same", [None, [0, 0, 0, *range(1, 38)]])
def test_statistics_are_their_formulas(pair_mode: bool, same: list[int] | None) -> None:
    """As loops over exact neighbours say, with and without captions, also with several pairs of a picture."""
    pictures, captions = features(40, 0)
    said = captions if pair_mode else None
    found = density_scores(pictures, said, 7, 7, None if same is None else torch.tensor(same))
    wanted = expected(pictures, said, list(range(40)) if same is None else same, 7)
    for name in STATISTICS:
        assert found[name].tolist() == pytest.approx(wanted[name], rel=1e-5), name


def test_indices_of_a_matrix_without_self_columns_would_be_other_neighbours() -> None:
    """What released code did: most of its look-ups in pair mode would hit another row than ours."""
    pictures, captions = features(128, 1)
    points = torch.cat([pictures, captions])
    near = neighbourhood(pictures, captions, 16)
    wrong = 0
    for row in range(128):
        others = [j for j in range(256) if j % 128 != row]
        order = torch.cdist(points[row : row + 1], points[others])[0].argsort()[:16]
        assert near.rows[row].tolist() == [others[j] for j in order.tolist()]
        wrong += int((near.rows[row] != order).sum())
    assert wrong > 0.3 * 128 * 16


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 24), k=st.integers(2, 30), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_only_k_distance_depends_on_the_unit(n: int, k: int, scale: float, seed: int) -> None:
    """Features in another unit leave SLOF, LID and DAO alone, scale k-dist, and k is cut to what there is."""
    pictures, captions = features(n, seed)
    before = density_scores(pictures, captions, k, k)
    after = density_scores(pictures * scale, captions * scale, k, k)
    for name in ("slof", "lid", "dao"):
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-3)
    assert torch.allclose(before["k-dist"] * scale, after["k-dist"], rtol=1e-4)


def test_copies_divide_by_nothing() -> None:
    """More copies of a picture than neighbours, or of all, still give finite scores."""
    pictures, captions = features(20, 2)
    some, all_alike = pictures.clone(), torch.ones(20, 6)
    some[:12] = some[0]
    for images, texts in ((some, None), (some, captions), (all_alike, None)):
        for name, values in density_scores(images, texts, 4, 8).items():
            assert bool(torch.isfinite(values).all()), name


def test_a_lonely_pair_ranks_first() -> None:
    """One picture far from all others has the highest k-dist, SLOF and DAO."""
    pictures, captions = features(60, 3)
    pictures[17] += 20
    found = density_scores(pictures, captions, 5, 10)
    assert all(int(found[name].argmax()) == 17 for name in ("k-dist", "slof", "dao"))


def test_too_few_pictures_are_refused() -> None:
    """Pairs of one picture have no neighbours."""
    pictures, captions = features(3, 4)
    with pytest.raises(ValueError, match="two pictures"):
        neighbourhood(pictures, captions, 2, torch.zeros(3, dtype=torch.int64))


def test_mismatch_is_the_negated_cosine() -> None:
    """1 for opposite directions, -1 for one direction, whatever the lengths."""
    pictures = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    captions = torch.tensor([[5.0, 0.0], [0.0, -1.0]])
    assert mismatch(pictures, captions).tolist() == pytest.approx([-1, 1])


@given(n=st.integers(1, 5000), size=st.integers(4, 2048))
@settings(max_examples=50, deadline=None)
def test_batches_hold_everything_once(n: int, size: int) -> None:
    """No sample is left out, no batch is larger than asked for or more than one shorter than another."""
    parts = batches(n, size, torch.Generator().manual_seed(0))
    lengths = {len(part) for part in parts}
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
