"""The formulas: ranks, neighbours, the probe, captions, and what a case is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipsec.exposure import QUERY_TEMPLATES, named_classes
from clipsec_dife._captions import (
    POOL_TEMPLATES,
    labelled_captions,
    queries,
)
from clipsec_dife._frozen import first_rank, knn_answers
from clipsec_dife._probe import fit_probe, probe_answers

NAMES = ("car", "race car", "cat", "bus")


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.data())
def test_the_rank_of_the_first_wanted_item(scores: list[int], data: st.DataObject) -> None:
    """As counting in a sorted list, with ties against the wanted item."""
    wanted = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], wanted[i]))
    expected = next(place for place, i in enumerate(order, start=1) if wanted[i])
    found = first_rank(torch.tensor([scores], dtype=torch.float32), torch.tensor(wanted))
    assert found.tolist() == [expected]


def test_neighbours_vote_by_how_near_they_are() -> None:
    """One near neighbour outvotes two far ones at a low temperature, not at a high one."""
    bank = F.normalize(torch.tensor([[1.0, 0.1], [0.6, 0.8], [0.6, 0.8]]), dim=1)
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1, 1])
    assert knn_answers(query, bank, labels, 2, k=3, t=0.07).tolist() == [0]
    assert knn_answers(query, bank, labels, 2, k=3, t=10.0).tolist() == [1]
    assert knn_answers(query, bank, labels, 2, k=1, t=10.0).tolist() == [0]


def blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = np.eye(5)[labels] + 0.35 * rng.normal(size=(n, 5))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels * 2


def test_the_probe_is_multinomial_logistic_regression() -> None:
    """At its optimum the gradient vanishes: the mean of the weighted residuals is the penalty's pull."""
    features, labels = blobs(120, 0)
    probe = fit_probe(features, labels)
    scores = 10 * features @ probe.weight[:-1] + probe.weight[-1]
    chance = np.exp(scores - scores.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    residual = chance - np.eye(3)[labels // 2]
    pull = probe.strength * (10 * features).T @ residual + probe.weight[:-1]
    assert np.abs(pull).max() < 0.05 * np.abs(probe.weight).max()
    assert np.abs(residual.sum(0)).max() < 0.05


def test_the_probe_learns_and_answers_in_labels() -> None:
    features, labels = blobs(120, 0)
    others, truth = blobs(300, 1)
    found = probe_answers(fit_probe(features, labels), others)
    assert set(found.tolist()) <= {0, 2, 4}
    assert (found == truth).mean() > 0.85


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("two cars in a street", [0]),
        ("a race car", [1]),
        ("a race car beside a car", [0, 1]),
        ("a cat on a bus", [2, 3]),
        ("Buses wait", [3]),
        ("a carpet", []),
        ("a caterpillar", []),
    ],
)
def test_which_classes_a_caption_names(text: str, named: list[int]) -> None:
    """Whole words, also in the plural; a longer name hides the shorter one inside it."""
    assert named_classes(text, NAMES) == named


def test_captions_that_name_several_classes_are_left_out() -> None:
    """They are neither of the target nor distractors; those that name none are."""
    found = labelled_captions(["a cat", "a cat on a bus", "a tree"], NAMES)
    assert [(caption.text, caption.label) for caption in found] == [("a cat", 2), ("a tree", -1)]


def test_queries_do_not_find_their_own_words() -> None:
    """No template of a query is one of a pool; there are at least 20 queries a class (the spec's T1)."""
    assert not set(QUERY_TEMPLATES) & set(POOL_TEMPLATES)
    assert len(set(QUERY_TEMPLATES)) >= 20
    assert [caption.label for caption in queries(NAMES, [2, 0])][:2] == [2, 0]
