"""Multinomial logistic regression on frozen features, as CLIP's linear probes are."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

STRENGTHS = (0.1, 1.0, 10.0)
"""C, the inverse strength of the L2 penalty, chosen by cross-validation."""
FOLDS = 5
ITERATIONS = 1_000
_SCALE = 10.0
"""Features come with unit length; CLIP's own are near this, and the penalty's meaning depends on it."""


@attrs.frozen(eq=False)
class Probe:
    """A trained probe."""

    weight: NDArray[np.float64]
    """`[features + 1, classes]`; the last row is the bias, which is not penalised."""
    labels: NDArray[np.int64]
    """What each column stands for."""
    strength: float


def fit_probe(features: NDArray[np.float64], labels: NDArray[np.int64], *, seed: int = 0) -> Probe:
    """Train on unit-length features `[n, E]`, labels `[n]`: L-BFGS, C by 5-fold cross-validation.

    The loss is the summed cross-entropy times C plus half the squared weights (Radford et al. 2021, appendix
    A.3, with a shorter list of C). Folds are drawn by the seed.
    """
    classes, columns = np.unique(labels, return_inverse=True)
    rows = np.random.default_rng(seed).permutation(len(labels))
    folds = [fold for fold in np.array_split(rows, min(FOLDS, len(rows))) if len(fold)]
    right = {}
    for strength in STRENGTHS:
        hits = 0
        for fold in folds:
            kept = np.setdiff1d(rows, fold)
            weight = _fit(features[kept], columns[kept], len(classes), strength)
            hits += int((_scores(weight, features[fold]).argmax(1) == columns[fold]).sum())
        right[strength] = hits
    best = max(STRENGTHS, key=lambda strength: (right[strength], -strength))
    return Probe(_fit(features, columns, len(classes), best), classes, best)


def probe_answers(probe: Probe, features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Predicted labels `[n]`."""
    return probe.labels[_scores(probe.weight, features).argmax(1)]


def _scores(weight: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    return _SCALE * features @ weight[:-1] + weight[-1]


def _fit(
    features: NDArray[np.float64], columns: NDArray[np.int64], classes: int, strength: float
) -> NDArray[np.float64]:
    design = np.concatenate([_SCALE * features, np.ones((len(features), 1))], axis=1)
    one_hot = np.eye(classes)[columns]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat.reshape(design.shape[1], classes)
        scores = design @ weight
        penalised = weight.copy()
        penalised[-1] = 0.0
        value = (logsumexp(scores, axis=1) - (scores * one_hot).sum(1)).sum()
        gradient = design.T @ (softmax(scores, axis=1) - one_hot)
        return strength * value + 0.5 * float((penalised**2).sum()), (strength * gradient + penalised).ravel()

    start = np.zeros(design.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "gtol": 1e-3})
    return np.asarray(found.x, dtype=np.float64).reshape(design.shape[1], classes)
