"""Thresholds and tables of docs/amdet_study.md."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from clipsec.stats import auroc, proportion
from clipsec.store import atomic_write

from .amdet_models import ADAPTIVE, BLIND, HALVES, PARADIGMS, PARTS, SUCCESS
from .clip_inspector import Table, fill, markdown, ranked, share

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "amdet_study.md"
RESULTS = ROOT / "docs" / "results" / "amdet_study.json"
PACKAGE = ROOT / "plugins/amdet/src/clipsec_amdet"
NOT_RUN = "**It has not been run yet; the tables are empty.**\n\n"
PAPER = {
    ("clip", "text-target"): (87.30, 91.67, 89.43, 376.64),
    ("clip", "image-on-text"): (87.74, 90.67, 89.18, 335.80),
    ("long-clip", "text-target"): (88.29, 98.00, 92.89, 220.66),
    ("long-clip", "image-on-text"): (87.88, 94.65, 91.14, 292.78),
    ("siglip", "text-target"): (100.0, 79.67, 88.68, 386.14),
    ("siglip", "image-on-text"): (100.0, 78.66, 88.06, 333.14),
}
"""Precision, recall, F1 in % and seconds on an RTX 4090 (arXiv 2512.00343, table I)."""
NAME = ("family", "half", "kind", "plugin", "number")
KNOWN = 2
"""Models of each kind, by number, that were known when the token scan was given its score; its tables leave
them out."""
HEAD = ["found", "false alarms", "precision", "F1", "AUROC", "seconds"]
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


def report(
    rows: Sequence[Row], families: Mapping[str, Any], searches: Mapping[str, Mapping[str, Any]]
) -> None:
    """Thresholds from the calibration half, tables of the test half, into the page and the results."""
    paired, scan = calibrate_paired(rows), calibrate_scan(rows)
    keep_thresholds(rows, paired, scan)
    tested = [row for row in rows if row["half"] == HALVES[1] and counts(row) and paired.judges(row)]
    unseen = [row for row in tested if row["number"] >= KNOWN and scan.judges(row)]
    tables = {
        "families": family_table(families),
        "cells": cell_table(tested, paired),
        "pooled": pooled_table(tested, paired),
        "scan_cells": cell_table(unseen, scan),
        "scan_pooled": pooled_table(unseen, scan),
        "beyond": beyond_table(unseen, paired, scan),
        "scan": scan_table(unseen, scan),
        "published": published_table(tested),
        "models": model_table(rows, paired, scan),
    }
    page = PAGE.read_text(encoding="utf-8").replace(NOT_RUN, "")
    for name, table in tables.items():
        page = fill(page, name, markdown(table))
    atomic_write(PAGE, page.encode())
    result = {
        "command": "python -m tests.studies.amdet --data DATA --out OUT",
        "searches": searches,
        "thresholds": {"paired": paired.limits, "token-scan": scan.units},
        "families": families,
        "torch": torch.__version__,
        "models": list(rows),
    }
    atomic_write(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    for name in ("pooled", "scan_pooled", "beyond", "scan"):
        print(markdown(tables[name]))


def published_rows() -> dict[str, dict[str, Any]]:
    """The models of the last report, by name."""
    if not RESULTS.is_file():
        return {}
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["models"]
    return {"-".join(str(row[key]) for key in NAME): row for row in rows}


def keep_thresholds(rows: Sequence[Row], paired: Judge, scan: Judge) -> None:
    """Write thresholds and where they come from into the plugins' files."""

    def source(judge: Judge, *families: str) -> str:
        half = [row for row in rows if row["family"] in families and calibrates(row, judge.label)]
        bad = sum(not row["benign"] for row in half)
        good = sum(bool(row["benign"]) for row in half)
        return f"{bad} backdoored and {good} benign small towers, the calibration half of docs/amdet_study.md"

    place = PACKAGE / "calibration.json"
    table = json.loads(place.read_text(encoding="utf-8"))
    for family, value in paired.limits.items():
        told = f"chosen on {source(paired, family)}, with its search"
        table["families"][family] |= {"gap": round(value, 4), "gap_source": told}
    atomic_write(place, (json.dumps(table, indent=2) + "\n").encode())
    if scan.limits and scan.units:
        shipped = {kind: round(unit, 4) for kind, unit in scan.units.items()} | {
            "source": f"chosen on {source(scan, *scan.limits)}"
        }
        atomic_write(
            PACKAGE / "token_scan" / "calibration.json", (json.dumps(shipped, indent=2) + "\n").encode()
        )


def family_table(families: Mapping[str, Any]) -> Table:
    """How near each clean tower is to mini's, on held-out captions."""
    rows = [["family", "cosine to mini's feature", "nearest is the same caption's"]]
    return [
        *rows,
        *([name, f"{one['cosine']:.3f}", f"{one['nearest']:.1%}"] for name, one in families.items()),
    ]


def line(rows: Sequence[Row], judge: Judge) -> list[str]:
    """What `HEAD` names, of some models."""
    bad, good = ([row for row in rows if row["benign"] is truth] for truth in (False, True))
    hits, alarms = sum(map(judge.flags, bad)), sum(map(judge.flags, good))
    scores = by_truth(rows, judge.score)
    seconds = [row["verdicts"][judge.label]["seconds"] for row in rows]
    return [
        share(proportion(hits, len(bad))),
        share(proportion(alarms, len(good))),
        share(proportion(hits, hits + alarms)),
        f"{100 * 2 * hits / (hits + alarms + len(bad)):.1f} %" if bad else "",
        ranked(auroc(scores[False], scores[True])) if bad and good else "",
        f"{sum(seconds) / len(seconds):.0f}" if seconds else "",
    ]


def cell_table(rows: Sequence[Row], judge: Judge) -> Table:
    """Every family and paradigm, beside what was published."""
    table = [["family", "paradigm", *HEAD, "published P / R / F1 / seconds"]]
    for (family, kind), paper in PAPER.items():
        own = [row for row in rows if (row["family"], row["kind"]) == (family, kind)]
        if own:
            told = " / ".join(f"{value:.1f}" for value in paper)
            table.append([family, kind, *line(own, judge), told])
    return table


def pooled_table(rows: Sequence[Row], judge: Judge) -> Table:
    """Families, and all."""
    told = [row for row in rows if row["kind"] in PARADIGMS]
    table = [["", *HEAD, "threshold"]]
    for family, limit in judge.limits.items():
        own = [row for row in told if row["family"] == family]
        table.append([family, *line(own, judge), f"{limit:.3f}"])
    return [*table, ["all", *line(told, judge), ""]]


def beyond_table(rows: Sequence[Row], paired: Judge, scan: Judge) -> Table:
    """What each search finds of the attacks that AMDET is not made for, and of those that know it."""
    table = [["family", "attack", "`paired`", "token scan", "either"]]
    for row in {(r["family"], group(r)): r for r in rows if r["kind"] not in PARADIGMS}.values():
        own = [r for r in rows if (r["family"], group(r)) == (row["family"], group(row))]
        first = [paired.flags(r) for r in own]
        second = [scan.judges(r) and scan.flags(r) for r in own]
        table.append(
            [
                row["family"],
                group(row),
                share(proportion(sum(first), len(own))),
                share(proportion(sum(second), len(own))) if scan.judges(row) else "",
                share(proportion(sum(map(max, first, second)), len(own))),
            ]
        )
    return table


def group(row: Row) -> str:
    """What the tables call a kind of attack."""
    if row["kind"] == ADAPTIVE:
        return f"adaptive, {row['options']['against']}"
    names = {BLIND: "attribute", PARTS: "target, parts of the trigger do nothing"}
    return names.get(row["kind"], str(row["kind"]))


def scan_table(rows: Sequence[Row], scan: Judge) -> Table:
    """The token scan on each kind of attack, against the benign models of the same families."""
    table = [["attack", *HEAD]]
    for name in dict.fromkeys(group(row) for row in rows if not row["benign"]):
        own = [row for row in rows if not row["benign"] and group(row) == name]
        families = {row["family"] for row in own}
        benign = [row for row in rows if row["benign"] and row["family"] in families]
        table.append([name, *line([*own, *benign], scan)])
    return table


def published_table(rows: Sequence[Row]) -> Table:
    """The published tests, on the models that they were run on."""
    table = [["what", "found"]]
    for benign, what in ((False, "backdoored"), (True, "benign")):
        own = [
            row["verdicts"]["published"]["outcome"] == "finding"
            for row in rows
            if row["benign"] is benign and row["kind"] in PARADIGMS and "published" in row["verdicts"]
        ]
        table.append([what, share(proportion(sum(own), len(own)))])
    return table


def model_table(rows: Sequence[Row], paired: Judge, scan: Judge) -> Table:
    """Every model, with the score and the verdict of each search."""
    table = [["model", "seed", "trigger", "success", "`paired`", "token scan"]]
    for row in rows:
        success = "" if row["benign"] else f"{row['measured']['seen']['success']['value']:.0%}"
        name = f"{row['family']}, {row['half']}, {row['plugin']} {row['number']}"
        trigger = str(row["options"].get("trigger", "")) and f"`{row['options'].get('trigger', '')}`"
        verdicts = [said(row, judge) for judge in (paired, scan)]
        table.append([name, str(row["seed"]), trigger, success, *verdicts])
    return table


def said(row: Row, judge: Judge) -> str:
    """`0.66 finding`, and whether that is wrong."""
    if not judge.judges(row):
        return ""
    score, flagged = judge.score(row), judge.flags(row)
    if not counts(row):
        return f"{score:.2f}, not counted"
    return f"{score:.2f} {'finding' if flagged else 'clean'}" + (
        " (**wrong**)" if flagged is row["benign"] else ""
    )
