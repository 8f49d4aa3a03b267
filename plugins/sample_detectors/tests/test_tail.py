"""The test beside clean samples is exact."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from clipsec_sample_detectors import LEVEL, fewest_clean, tail


@pytest.mark.parametrize(("n", "m", "share"), [(4, 5, 0.2), (5, 6, 0.3), (3, 7, 0.5)])
def test_probability_is_that_of_all_orders(n: int, m: int, share: float) -> None:
    """p is the share of orders of clean and tested samples with as many above the threshold, or more."""
    counts, ps = [], {}
    for places in combinations(range(n + m), n):
        tested = torch.tensor(places, dtype=torch.float64)
        clean = torch.tensor([i for i in range(n + m) if i not in places], dtype=torch.float64)
        found = tail(tested, clean, share)
        counts.append(int(found.flagged.sum()))
        ps[counts[-1]] = found.p
        mean = found.expected
    assert sum(counts) / len(counts) == pytest.approx(mean)
    for count, p in ps.items():
        assert p == pytest.approx(sum(each >= count for each in counts) / len(counts))


def test_level_holds_and_poison_is_seen() -> None:
    """Of 400 clean sets about one in a hundred is significant; one with a twentieth far out is."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 300, generator=generator) for _ in range(400)]
    assert sum(tail(tested, clean, 0.05).significant for tested, clean in draws) <= 3 * LEVEL * 400
    tested, clean = draws[0]
    assert tail(torch.cat([tested, torch.full((30,), 9.0)]), clean, 0.01).significant


def test_ties_never_alarm() -> None:
    """Scores that are all equal are not above their threshold."""
    found = tail(torch.ones(50), torch.ones(50), 0.05)
    assert (int(found.flagged.sum()), found.p, found.significant) == (0, 1.0, False)


def test_what_cannot_be_tested_is_refused() -> None:
    """Too few clean samples, and scores that are no numbers."""
    assert (fewest_clean(0.05), fewest_clean(0.01), fewest_clean(0.5)) == (19, 99, 1)
    with pytest.raises(ValueError, match="18 clean samples are too few"):
        tail(torch.ones(5), torch.ones(18), 0.05)
    with pytest.raises(ValueError, match="not a number"):
        tail(torch.tensor([1.0, float("nan")]), torch.ones(30), 0.05)
