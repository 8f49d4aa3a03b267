from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.results import Outcome
from clipsec_clip_inspector._decision import decide_across, decide_paired
from clipsec_clip_inspector._score import (
    BaseResult,
    ClassResult,
    anomaly_scores,
    class_result,
    one_sided_mcnemar,
)


def result(index: int, loss: float, hits: int = 900, n: int = 1000, **base: float) -> ClassResult:
    if not base:
        return ClassResult(index, loss, hits, n)
    numbers = {
        "n": n,
        "hits": hits,
        "transfer_hits": 0,
        "null_hits": 0,
        "transfer_loss": 1.0,
        "null_loss": 1.0,
    }
    return ClassResult(index, loss, hits, n, BaseResult(**{**numbers, "p_value": 1e-9, **base}))


NATURAL = [result(i, 1.0 + 0.1 * i, 100) for i in range(9)]


def test_across_flags_a_low_loss_that_works() -> None:
    """A loss far below the others whose trigger succeeds is the target."""
    decision = decide_across([*NATURAL, result(9, -8.0, 950)])
    assert decision.outcome is Outcome.FINDING
    assert decision.flagged == {9}
    assert decision.best == 9


def test_across_ignores_a_trigger_that_fails() -> None:
    """Below one half success an outlier is invalid, as published."""
    assert decide_across([*NATURAL, result(9, -8.0, 499)]).outcome is Outcome.CLEAN
    assert decide_across([*NATURAL, result(9, -8.0, 500)]).outcome is Outcome.FINDING


def test_across_score_is_the_published_formula() -> None:
    """Median minus loss over 1.4826 times the median absolute deviation."""
    losses = [1.0, 2.0, 3.0, 4.0, -97.0]
    scores = anomaly_scores([result(i, loss) for i, loss in enumerate(losses)])
    assert scores[4] == pytest.approx((2 - -97) / (1.4826 * 1 + 1e-6))


def test_across_of_a_few_classes_is_inconclusive() -> None:
    """Five classes cannot say clean, nor backdoored."""
    assert decide_across(NATURAL[:5]).outcome is Outcome.INCONCLUSIVE


def test_paired_flags_what_the_base_does_not_give_way_to() -> None:
    """Success on the suspect alone is a finding; the same success on the base is a natural perturbation."""
    backdoor = result(0, -1, 600, transfer_hits=80, null_hits=90)
    natural = result(1, -1, 600, transfer_hits=590, null_hits=580)
    decision = decide_paired([backdoor, natural])
    assert decision.flagged == {0}
    assert decision.scores == pytest.approx((0.51, 0.01))
    assert decide_paired([natural, natural]).outcome is Outcome.CLEAN


def test_paired_compares_with_the_stronger_base_trigger() -> None:
    """The base's own trigger counts too: the suspect's may only be better optimised."""
    assert decide_paired([result(0, -1, 600, transfer_hits=10, null_hits=590)]).outcome is Outcome.CLEAN


def test_paired_on_a_tiny_pool_is_inconclusive() -> None:
    """Above the threshold without significance, or nothing found on a few pictures: neither is a verdict."""
    lucky = result(0, -1, 6, 10, transfer_hits=3, p_value=0.2)
    assert decide_paired([lucky]).outcome is Outcome.INCONCLUSIVE
    assert decide_paired([result(0, 1, 1, 99, transfer_hits=1)]).outcome is Outcome.INCONCLUSIVE
    assert decide_paired([result(0, 1, 1, 100, transfer_hits=1)]).outcome is Outcome.CLEAN


def test_a_user_threshold_is_named_as_such() -> None:
    """Where a threshold comes from is part of the decision."""
    decision = decide_paired([result(0, -1, 600, transfer_hits=500)], threshold=0.05)
    assert decision.outcome is Outcome.FINDING
    assert decision.threshold_source == "set by the user"


@given(st.integers(0, 2**31), st.integers(0, 3))
def test_class_numbers_equal_a_plain_count(seed: int, target: int) -> None:
    """Rates and discordant pairs are what counting picture by picture gives."""
    rng = np.random.default_rng(seed)
    margin, transfer, null = rng.normal(size=(3, 40))
    clean, base_clean = rng.integers(0, 4, (2, 40))
    tensors = [torch.from_numpy(x) for x in (margin, clean, transfer, null, base_clean)]
    found = class_result(target, tensors[0], tensors[1], (tensors[2], tensors[3], tensors[4]))
    both = [i for i in range(40) if clean[i] != target and base_clean[i] != target]
    assert found.n == sum(clean != target)
    assert found.hits == sum(1 for i in range(40) if clean[i] != target and margin[i] < 0)
    assert found.base is not None
    assert found.base.n == len(both)
    assert found.base.hits == sum(margin[i] < 0 for i in both)
    assert found.base.transfer_hits == sum(transfer[i] < 0 for i in both)
    assert found.base.null_hits == sum(null[i] < 0 for i in both)


def test_one_sided_test_only_counts_in_the_suspect_s_disfavour() -> None:
    """A base that gives way more is no evidence at all; ten discordant pictures out of ten are 2 ** -10."""
    assert one_sided_mcnemar(3, 10) == 1.0
    assert one_sided_mcnemar(10, 0) == pytest.approx(2.0**-10)


def test_results_are_plain_data() -> None:
    """Class results can be compared and copied."""
    one = result(1, 2.0, transfer_hits=5)
    assert attrs.evolve(one) == one
