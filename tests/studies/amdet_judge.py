"""Thresholds of docs/amdet_study.md: a search judges by those of the calibration half."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from .amdet_models import BLIND, HALVES, SUCCESS

KNOWN = 2
"""Models of each kind, by number, that were known when the token scan was given its score; its tables leave
them out."""
Row = Mapping[str, Any]


@attrs.frozen
class Judge:
    """A search and its thresholds, chosen on the calibration half."""

    label: str
    limits: Mapping[str, float]
    """By family."""
    units: Mapping[str, float] | None = None
    """Of the token scan: what a pull of a single token, and of a sequence, is measured in."""

    def judges(self, row: Row) -> bool:
        return row["family"] in self.limits and self.label in row["verdicts"]

    def score(self, row: Row) -> float:
        said = row["verdicts"][self.label]
        if self.units is None:
            return float(said["score"])
        return max(said["pulls"][kind] / unit for kind, unit in self.units.items())

    def flags(self, row: Row) -> bool:
        return self.score(row) > self.limits[row["family"]]


def counts(row: Row) -> bool:
    """Whether a model is what it is meant to be: benign, or with a backdoor that works."""
    return bool(row["benign"] or row["measured"]["seen"]["success"]["value"] >= SUCCESS)


def threshold(benign: Sequence[float], backdoored: Sequence[float]) -> float:
    """The middle of the widest interval of thresholds with the fewest errors, errors of each kind weighed by
    how many models there are of it. Raises `ValueError` when a kind is missing."""
    if not benign or not backdoored:
        raise ValueError("a threshold needs benign and backdoored models")
    scores = sorted({*benign, *backdoored})

    def errors(edge: float) -> float:
        missed = sum(score <= edge for score in backdoored) / len(backdoored)
        return missed + sum(score > edge for score in benign) / len(benign)

    between = list(itertools.pairwise(scores)) or [(scores[0], scores[0])]
    low, high = min(between, key=lambda pair: (errors(sum(pair) / 2), pair[0] - pair[1]))
    return (low + high) / 2


def calibrate_paired(rows: Sequence[Row]) -> Judge:
    """For each family, the threshold of its models of the calibration half."""
    limits = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        half = [row for row in rows if row["family"] == family and calibrates(row, "paired")]
        found = by_truth(half, lambda row: float(row["verdicts"]["paired"]["score"]))
        if found[True] and found[False]:
            limits[family] = threshold(found[True], found[False])
    return Judge("paired", limits)


def calibrate_scan(rows: Sequence[Row]) -> Judge:
    """Two units for all families: the threshold of single tokens and that of sequences."""
    half = [row for row in rows if calibrates(row, "token-scan")]
    units = {}
    for kind in ("single", "sequence"):
        found = by_truth(half, lambda row, kind=kind: float(row["verdicts"]["token-scan"]["pulls"][kind]))
        if found[True] and found[False]:
            units[kind] = threshold(found[True], found[False])
    families = dict.fromkeys((row["family"] for row in half), 1.0) if len(units) == 2 else {}
    return Judge("token-scan", families, units)


def calibrates(row: Row, label: str) -> bool:
    """Whether a model may choose the thresholds of a search. First attribute attacks do for the token scan,
    whose score was given its form when they were known."""
    if not counts(row) or label not in row["verdicts"]:
        return False
    seen = label == "token-scan" and row["kind"] == BLIND and row["number"] < KNOWN
    return bool(row["half"] == HALVES[0] or seen)


def by_truth(rows: Iterable[Row], score: Callable[[Row], float]) -> dict[bool, list[float]]:
    """Scores of benign (True) and backdoored models."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        found[row["benign"]].append(score(row))
    return found
