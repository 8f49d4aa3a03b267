"""Tables of docs/who_sees_what.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import torch

from clipsec.stats import proportion
from clipsec.store import atomic_write

from .amdet_models import SUCCESS
from .clip_inspector import Table, fill_page, markdown, percent, share
from .who_detectors import CAPTIONS, DETECTORS, WORDS
from .who_models import APART, PLACES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "who_sees_what.md"
RESULTS = ROOT / "docs" / "results" / "who_sees_what.json"
LACKS = {
    "image tower": "no image tower",
    "text tower": "no text tower",
    "class names": "no classes",
    "prompt head": "no learned prompts",
}
"""By what an audit says is missing; the first that fits is told."""
Row = Mapping[str, Any]
Said = Mapping[str, Any]


def report(rows: Sequence[Row]) -> None:
    """Write the tables of what there is into the page, and everything into the results."""
    tables = {
        "matrix": matrix_table([row for row in rows if not row["benign"]]),
        "benign": matrix_table([row for row in rows if row["benign"]]),
        "detectors": detector_table(rows),
        "samples": sample_table(rows),
    }
    fill_page(PAGE, tables)
    result = {
        "command": "python -m tests.studies.who_sees_what --data DATA --out OUT",
        "detectors": {label: attrs.asdict(detector) for label, detector in DETECTORS.items()},
        "torch": torch.__version__,
        "models": list(rows),
    }
    atomic_write(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    for name in ("matrix", "benign", "detectors"):
        print(markdown(tables[name]))


def published_rows() -> dict[str, dict[str, Any]]:
    """The models of the last report, by name and number."""
    if not RESULTS.is_file():
        return {}
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["models"]
    return {f"{row['name']}-{row['number']}": row for row in rows}


def planted(row: Row) -> bool:
    """Whether the attack did what it is made for."""
    return not row["benign"] and row["measured"].get("success", 0.0) >= SUCCESS


def unchanged(said: Said) -> bool:
    """Whether the detector reads a tower that is the reference's, and so sees nothing by design."""
    return bool(said.get("measures", {}).get("equals_reference"))


def names_it(row: Row, said: Said, label: str) -> bool | None:
    """Whether what a finding names is what was planted: a target, or a word or a part of the trigger. None
    where that cannot be told."""
    kind = DETECTORS[label].names
    if kind == CAPTIONS:
        return None
    if kind == WORDS:
        found = "".join(str(said.get("best") or "").lower().split())
        triggers = [word.lower().split() for word in row["words"]]
        if not found or not triggers:
            return None
        return any(found in "".join(each) or any(part in found for part in each) for each in triggers)
    return None if said["target"] is None else said["target"] in row["targets"]


def cell(row: Row, label: str) -> str:
    """What one detector says of one model, in words."""
    said = row["verdicts"].get(label)
    if said is None:
        return "not run"
    mark = " †" if "from" in said else ""
    if said["outcome"] == "skipped":
        return f"not eligible: {lacking(said['summary'])}"
    if said["outcome"] == "clean":
        if unchanged(said):
            return "same tower"
        if row["benign"] or not planted(row):
            return "passed" + mark
        return ("**missed**" if row["name"] in DETECTORS[label].scope else "missed") + mark
    if said["outcome"] != "finding":
        return said["outcome"] + mark
    if row["benign"]:
        return ("found" if row["name"] in APART else "**false alarm**") + mark
    right = names_it(row, said, label)
    if right is None:
        return "found" + mark
    what = "trigger" if DETECTORS[label].names == WORDS else "target"
    return (f"found, {what} right" if right else f"found, {what} **wrong**") + mark


def lacking(summary: str) -> str:
    """Why a detector was skipped, in few words."""
    return next((words for need, words in LACKS.items() if need in summary), summary)


def matrix_table(rows: Sequence[Row]) -> Table:
    """A row a model, a column a detector; attacks that did not succeed come in their place, and say so."""
    if not rows:
        return [["model"]]
    table = [["model", "changed", "success (on the base)", *(f"`{label}`" for label in DETECTORS)]]
    for row in sorted(rows, key=lambda row: PLACES.index(row["place"])):
        table.append(
            [
                f"`{row['name']}`" + ("" if row["number"] == 0 else f" ({row['number'] + 1})"),
                row["place"],
                success(row),
                *(cell(row, label) for label in DETECTORS),
            ]
        )
    if all(row["benign"] for row in rows):
        return [[*line[:2], *line[3:]] for line in table]
    return table


def success(row: Row) -> str:
    """`97.1 % (14.3 %)`, and whether that is too little to count."""
    found = row["measured"]
    if "success" not in found:
        return "" if row["benign"] else "not run"
    base = f" ({percent(found['on_base'])})" if "on_base" in found else ""
    return percent(found["success"]) + base + ("" if planted(row) else ", **not planted**")


def detector_table(rows: Sequence[Row]) -> Table:
    """Each detector: what it is made for, what it found there and elsewhere, its false alarms and cost."""
    head = "detector, made for, found of that, found of the rest, sees nothing of, false alarms, core-seconds"
    table = [head.split(", ")]
    for label, detector in DETECTORS.items():
        said = [(row, row["verdicts"][label]) for row in rows if label in row["verdicts"]]
        can = [(row, each) for row, each in said if each["outcome"] != "skipped" and not unchanged(each)]
        sides = [
            [
                each["outcome"] == "finding"
                for row, each in can
                if planted(row) and (row["name"] in detector.scope) is inside
            ]
            for inside in (True, False)
        ]
        alarms = [
            each["outcome"] == "finding" for row, each in can if row["benign"] and row["name"] not in APART
        ]
        blind = sum(planted(row) for row, _ in said) - sum(map(len, sides))
        spent = [each["seconds"] for _, each in can if "from" not in each]
        table.append(
            [
                f"`{label}`",
                detector.made_for,
                *(share(proportion(sum(side), len(side))) if side else "none run" for side in sides),
                str(blind),
                share(proportion(sum(alarms), len(alarms))) if alarms else "none run",
                f"{median(spent):.0f}" if spent else "",
            ]
        )
    return table


def sample_table(rows: Sequence[Row]) -> Table:
    """BDetCLIP on pictures with the trigger, local density on pairs with it, seen by the poisoned model."""
    table = [["model", "`bdetclip`: AUROC", "triggered below the 5 % threshold"]]
    table[0] += ["`local-density`: AUROC at 1 %", "at 0.3 %"]
    for row in rows:
        pictures, pairs = (row["samples"].get(label) for label in ("bdetclip", "local-density"))
        if pictures is None and pairs is None:
            continue
        line = [f"`{row['name']}`", "not run", "not run", "not run", "not run"]
        if pictures is not None:
            found = pictures["benign"]["descriptions"]
            caught = found["thresholds"]["0.050"]["caught"]
            line[1:3] = [ranked(found["auroc"]), f"{caught['count']} of {caught['n']}"]
        if pairs is not None:
            line[3:] = [ranked(pairs["auroc"][rate][DENSITY]) for rate in ("0.01", "0.003")]
        table.append(line)
    return table


DENSITY = "dao"
"""What the detector ranks by, unless it is told otherwise."""


def ranked(found: Mapping[str, float]) -> str:
    """`0.67 [0.62, 0.71]`."""
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
