"""Tables of docs/amdet_study.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipsec.stats import auroc, proportion

from .amdet_judge import Judge, Row, by_truth, counts
from .amdet_models import ADAPTIVE, BLIND, HARD, LORA, PARADIGMS, PARTS, REMOVE, SEVERAL
from .clip_inspector import Table, ranked, share

PAPER = {
    ("clip", "text-target"): (87.30, 91.67, 89.43, 376.64),
    ("clip", "image-on-text"): (87.74, 90.67, 89.18, 335.80),
    ("long-clip", "text-target"): (88.29, 98.00, 92.89, 220.66),
    ("long-clip", "image-on-text"): (87.88, 94.65, 91.14, 292.78),
    ("siglip", "text-target"): (100.0, 79.67, 88.68, 386.14),
    ("siglip", "image-on-text"): (100.0, 78.66, 88.06, 333.14),
}
"""Precision, recall, F1 in % and seconds on an RTX 4090 (arXiv 2512.00343, table I)."""
HEAD = ["found", "false alarms", "precision", "F1", "AUROC", "seconds"]


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
    """Families, all, and all with the benign models that are near to an attack."""
    told = [row for row in rows if row["kind"] in PARADIGMS]
    table = [["", *HEAD, "threshold"]]
    for family, limit in judge.limits.items():
        own = [row for row in told if row["family"] == family]
        table.append([family, *line(own, judge), f"{limit:.3f}"])
    hard = [row for row in rows if row["kind"] in HARD]
    more = [["all, with hard negatives", *line([*told, *hard], judge), ""]] if hard else []
    return [*table, ["all", *line(told, judge), ""], *more]


def both_table(rows: Sequence[Row], paired: Judge, scan: Judge, what: str) -> Table:
    """What each search finds of each kind, in attacks that AMDET is not made for (and those that know it), or
    in benign models that are near to an attack; `what` is the head of the column that names the kind."""
    table = [["family", what, "`paired`", "token scan", "either"]]
    for family, kind in dict.fromkeys((row["family"], group(row)) for row in rows):
        own = [row for row in rows if (row["family"], group(row)) == (family, kind)]
        first, second = list(map(paired.flags, own)), list(map(scan.flags, own))
        told = (first, second, list(map(max, first, second)))
        table.append([family, kind, *(share(proportion(sum(flags), len(own))) for flags in told)])
    return table


def group(row: Row) -> str:
    """What the tables call a kind of attack."""
    if row["kind"] == ADAPTIVE:
        return f"adaptive, {row['options']['against']}"
    names = {
        BLIND: "attribute",
        PARTS: "target, parts of the trigger do nothing",
        SEVERAL: "several triggers at once",
        LORA: "fine-tune with low-rank updates",
        REMOVE: "words removed",
    }
    return names.get(row["kind"], str(row["kind"]))


def scan_table(rows: Sequence[Row], scan: Judge) -> Table:
    """The token scan on each kind of attack, against the benign models of the same families, hard negatives
    left out."""
    table = [["attack", *HEAD]]
    for name in dict.fromkeys(group(row) for row in rows if not row["benign"]):
        own = [row for row in rows if not row["benign"] and group(row) == name]
        families = {row["family"] for row in own}
        benign = [
            row for row in rows if row["benign"] and row["kind"] not in HARD and row["family"] in families
        ]
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
        options = row["options"]
        trigger = ", ".join(
            f"`{text}`" for text in options.get("triggers") or [options.get("trigger")] if text
        )
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
