"""Thresholds and tables of docs/amdet_study.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clipsec.store import atomic_write

from . import amdet_tables as of
from .amdet_cards import Told, write_cards
from .amdet_judge import KNOWN, Judge, Row, calibrate_paired, calibrate_scan, calibrates, counts
from .amdet_models import HALVES, HARD, LATER, PARADIGMS
from .clip_inspector import fill_page, markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "amdet_study.md"
RESULTS = ROOT / "docs" / "results" / "amdet_study.json"
PACKAGE = ROOT / "plugins/amdet/src/clipsec_amdet"
NAME = ("family", "half", "kind", "plugin", "number")


def report(
    rows: Sequence[Row], families: Mapping[str, Any], searches: Mapping[str, Mapping[str, Any]]
) -> None:
    """Thresholds from the calibration half, tables of the test half, into the page and the results."""
    paired, scan = calibrate_paired(rows), calibrate_scan(rows)
    keep_thresholds(rows, paired, scan)
    tested = [row for row in rows if row["half"] == HALVES[1] and counts(row) and paired.judges(row)]
    unseen = [row for row in tested if (row["number"] >= KNOWN or row["kind"] in LATER) and scan.judges(row)]
    beyond = [row for row in unseen if row["kind"] not in PARADIGMS and not row["benign"]]
    tables = {
        "families": of.family_table(families),
        "cells": of.cell_table(tested, paired),
        "pooled": of.pooled_table(tested, paired),
        "scan_cells": of.cell_table(unseen, scan),
        "scan_pooled": of.pooled_table(unseen, scan),
        "beyond": of.both_table(beyond, paired, scan, "attack"),
        "hard": of.both_table([row for row in unseen if row["kind"] in HARD], paired, scan, "training"),
        "scan": of.scan_table(unseen, scan),
        "published": of.published_table(tested),
        "models": of.model_table(rows, paired, scan),
    }
    write_cards(
        {
            "amdet": ("paired", searches["paired"], told_of(tested, paired)),
            "token-scan": ("token-scan", searches["token-scan"], told_of(unseen, scan)),
        },
        PACKAGE,
    )
    fill_page(PAGE, tables)
    result = {
        "command": "python -m tests.studies.amdet --data DATA --out OUT",
        "searches": searches,
        "thresholds": {"paired": paired.limits, "token-scan": scan.units},
        "families": families,
        "torch": torch.__version__,
        "models": list(rows),
    }
    atomic_write(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    for name in ("pooled", "scan_pooled", "beyond", "hard", "scan"):
        print(markdown(tables[name]))


def told_of(rows: Sequence[Row], judge: Judge) -> list[Told]:
    """What a search says of every model of a kind that counts, hard negatives and attacks beyond it too."""
    return [
        Told(
            name_of(row),
            "" if row["benign"] else of.group(row),
            judge.score(row),
            judge.flags(row),
        )
        for row in rows
    ]


def published_rows() -> dict[str, dict[str, Any]]:
    """The models of the last report, by name."""
    if not RESULTS.is_file():
        return {}
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["models"]
    return {name_of(row): row for row in rows}


def name_of(row: Row) -> str:
    """The name of a model's case."""
    return "-".join(str(row[key]) for key in NAME)


def keep_thresholds(rows: Sequence[Row], paired: Judge, scan: Judge) -> None:
    """Write thresholds and where they come from into the plugins' files."""

    def source(judge: Judge, *families: str) -> str:
        used = [row for row in rows if row["family"] in families and calibrates(row, judge.label)]
        half = [row for row in used if row["half"] == HALVES[0]]
        bad, more = sum(not row["benign"] for row in half), len(used) - len(half)
        told = f"{bad} backdoored and {len(half) - bad} benign small towers, the calibration half of"
        extra = f", and {more} attribute attacks of its test half that the tables leave out"
        return f"{told} docs/amdet_study.md{extra if more else ''}"

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
