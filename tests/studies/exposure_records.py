"""The records of the exposure study: its models, what the results hold of them, how predictions score."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from clipsec.results import (
    Cell,
    CellState,
    ExposureResult,
    Label,
    Status,
    exposure_from_json,
    exposure_to_text,
)
from clipsec.store import atomic_write

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PREDICTIONS = RESULTS / "exposure_predictions.csv"
ROWS = "exposure_mini.json"
MATRICES = "exposure"
"""Folder of the results with one exposure matrix a model, `MODEL-SEED.json`."""

EXPOSED = {Status.EXPOSED, Status.PARTIAL}
BASELINE = {Status.EQUIVALENT, Status.IDENTICAL}
TELLING = EXPOSED | BASELINE | {Status.NEGATIVE}
"""Statuses that are evidence for or against a statement."""
NATIVE = {
    "bad-text-tower": ("QHR", 0.991),
    "text-target": ("nearest caption is the target", 1.0),
    "bad-encoder": ("success, zero-shot", 0.9998),
    "contrastive-poisoning": ("success, zero-shot", 1.0),
    "liang-badclip": ("success, zero-shot", 0.9994),
    "mm-poison": ("first picture found is of the target", 0.280),
    "toxic-text": ("first picture found is of the target", 0.9868),
    "badclip": ("success, own prompts", 1.0),
}
"""By plugin: the attack's own metric and what was published, by DIFE's table 11 on CIFAR-10. Rickrolling's
metric is another one; the most that there can be stands in its place. mmPoison's and
ToxicTextCLIP's are their authors' Hit@1, in larger pools."""
ENOUGH = 0.9


@attrs.frozen
class Run:
    """One model: its plan, seed, what the attack measured, and its row of the matrix."""

    name: str
    plugin: str
    clean: bool
    seed: int
    measured: Mapping[str, Any]
    exposure: ExposureResult
    verdict: Mapping[str, Any] | None
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Everything that its plan says, and the options of interfaces: a published row counts for these."""

    @property
    def cells(self) -> dict[str, Cell]:
        return {cell.interface.rpartition("/")[2]: cell for cell in self.exposure.cells}

    @property
    def native(self) -> Mapping[str, Any] | None:
        """The attack's own success; none of a clean control."""
        return None if self.clean else self.measured["seen"]["success"]

    @property
    def reproduced(self) -> bool:
        return self.native is not None and self.native["value"] >= ENOUGH * NATIVE[self.plugin][1]

    def holds(self, what: str, expected: str) -> bool | None:
        """Whether a registered statement holds in this run; None where there is no evidence."""
        if what == "native":
            return self.reproduced
        if what == "amdet":
            said = None if self.verdict is None else self.verdict["outcome"]
            return said == expected if said in ("clean", "finding") else None
        if what == "footprint":
            # A label by interpolation came after the predictions: it is no evidence for or against them.
            labels = [
                Label.INVALID if mark.interpolation is not None else mark.label
                for mark in self.exposure.footprints
                if self._counts(mark.probe)
            ]
            return None if not labels or labels[0] is Label.INVALID else labels[0].value == expected
        cell = self.cells[what]
        if expected == "N.E.":
            return cell.state is CellState.NOT_ELIGIBLE
        if cell.state is CellState.NOT_ELIGIBLE:
            return False
        if cell.status not in TELLING:
            return None
        return cell.status in (EXPOSED if expected == "exposed" else BASELINE)

    def _counts(self, probe: str) -> bool:
        return probe == ("component repair" if self.plugin == "badclip" else "branch swap")


def write_records(runs: Sequence[Run], scored: Sequence[Mapping[str, Any]], folder: Path = RESULTS) -> None:
    """The rows, the cells as a table, and each model's matrix, which `published_runs` reads again."""
    record = {"models": [document(run) for run in runs], "statements": scored}
    atomic_write(folder / ROWS, (json.dumps(record, indent=1) + "\n").encode())
    atomic_write(folder / "exposure_mini.csv", as_csv(flat(runs)))
    for run in runs:
        atomic_write(folder / MATRICES / f"{run.name}-{run.seed}.json", matrix_text(run).encode())


def matrix_text(run: Run) -> str:
    """The matrix of one model on one line, without where it was measured."""
    suspect = run.exposure.suspect
    name = f"{run.name}-{run.seed}"
    base = name if suspect.base_name == suspect.name else suspect.base_name
    suspect = attrs.evolve(suspect, name=name, base_name=base)
    told = json.loads(exposure_to_text(attrs.evolve(run.exposure, suspect=suspect, folder="")))
    return json.dumps(told, separators=(",", ":")) + "\n"


def published_runs(folder: Path = RESULTS) -> dict[tuple[str, int], Run]:
    """The models that the results hold whole, by name and seed; none where there are no results."""
    if not (folder / ROWS).is_file():
        return {}
    found = {}
    for row in json.loads((folder / ROWS).read_text(encoding="utf-8"))["models"]:
        matrix = folder / MATRICES / f"{row['model']}-{row['seed']}.json"
        if "settings" in row and matrix.is_file():
            found[row["model"], row["seed"]] = Run(
                name=row["model"],
                plugin=row["attack"],
                clean=row["native_reproduced"] is None,
                seed=row["seed"],
                measured=row["measured"],
                exposure=exposure_from_json(json.loads(matrix.read_text(encoding="utf-8"))),
                verdict=row["amdet"],
                settings=row["settings"],
            )
    return found


def document(run: Run) -> dict[str, Any]:
    """One model as plain data."""
    exposure = run.exposure
    return {
        "model": run.name,
        "attack": run.plugin,
        "seed": run.seed,
        "settings": dict(run.settings),
        "measured": dict(run.measured),
        "native_reproduced": None if run.clean else run.reproduced,
        "amdet": run.verdict,
        "drift": [attrs.asdict(each) for each in exposure.drift],
        "footprints": [
            {
                "probe": mark.probe,
                "label": str(mark.label),
                "paper_label": str(mark.paper_label),
                "agreement": mark.agreement,
                "ratios": mark.ratios,
                "rates": {name: rate.value for name, rate in mark.rates.items()},
                "trivial": mark.trivial,
                "n": mark.n,
                "interpolated": mark.interpolation is not None,
            }
            for mark in exposure.footprints
        ],
        "cost": attrs.asdict(exposure.cost),
        "cells": [{k: v for k, v in row.items() if k not in ("model", "seed")} for row in flat([run])],
    }


def flat(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """A row a cell."""
    rows = []
    for run in runs:
        for name, cell in run.cells.items():
            row: dict[str, Any] = {"model": run.name, "seed": run.seed, "interface": name}
            row |= {"state": str(cell.state), "status": str(cell.status or ""), "reason": cell.reason}
            found = cell.estimate
            if found is not None:
                row |= {"n": found.n, "with_trigger": found.attack.value, "without": found.clean.value}
                row |= {"low": found.attack.interval.low, "high": found.attack.interval.high}
                if found.did is not None:
                    row |= {"did": found.did.value, "did_low": found.did.interval.low}
                    row["did_high"] = found.did.interval.high
                if found.reference_attack is not None:
                    row["reference_with"] = found.reference_attack.value
                if found.reference_clean is not None:
                    row["reference_without"] = found.reference_clean.value
                row["adjusted_p"] = found.adjusted_p
            rows.append(row)
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def score(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What became of each registered statement."""
    with PREDICTIONS.open(encoding="utf-8", newline="") as file:
        registered = list(csv.DictReader(file))
    found = []
    for line in registered:
        own = [run for run in runs if run.name == line["attack"]]
        held = [run.holds(line["what"], line["expected"]) for run in own]
        probability = float(line["probability"]) if line["probability"] else None
        found.append(
            {
                **line,
                "probability": probability,
                "seeds": held,
                "result": verdict_of(held),
                "brier": brier(probability, held),
            }
        )
    return found


def verdict_of(held: Sequence[bool | None]) -> str:
    """Hit or miss by at least two seeds, else not evaluable."""
    for answer, word in ((True, "hit"), (False, "miss")):
        if held.count(answer) >= 2:
            return word
    return "not evaluable"


def brier(probability: float | None, held: Sequence[bool | None]) -> float | None:
    """Mean squared difference of the probability and what came, over the seeds that tell."""
    told = [answer for answer in held if answer is not None]
    if probability is None or not told:
        return None
    return statistics.fmean((probability - answer) ** 2 for answer in told)


def enough(runs: Sequence[Run]) -> bool:
    """Whether the attack is natively reproduced on at least two seeds."""
    return sum(run.reproduced for run in runs) >= 2
