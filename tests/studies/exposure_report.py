"""The page of the exposure study: its tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.studies.clip_inspector import fill_page
from tests.studies.exposure_records import ENOUGH, NATIVE, RESULTS, ROOT, Run, enough, score, write_records

from clipsec.results import Cell, Footprint, Label, Status

PAGE = ROOT / "docs" / "exposure_study.md"
LETTERS = {
    Status.EXPOSED: "E",
    Status.PARTIAL: "P",
    Status.EQUIVALENT: "=",
    Status.NEGATIVE: "N",
    Status.CEILING: "C",
    Status.UTILITY_BROKEN: "U",
    Status.IDENTICAL: "i",
    Status.INCONCLUSIVE: "?",
}
PUBLISHED = {
    "bad-encoder": {"zero-shot": "0.9998", "image-to-text": "0.0001", "linear-probe": "0.9996"},
    "contrastive-poisoning": {"zero-shot": "1.0000", "image-to-text": "0.0001", "linear-probe": "1.0000"},
    "liang-badclip": {"zero-shot": "0.9994", "image-to-text": "0.0001", "linear-probe": "0.9992"},
    "toxic-text": {"reranking": "0.960 (-0.025)"},
    "badclip": {
        "delivered": "1.0000",
        "zero-shot": "0.0973",
        "image-to-text": "0.0010",
        "linear-probe": "1.0000",
    },
    "bad-text-tower": {
        "prompt-conditioned": "0.991",
        "text-to-image": "1.000",
        "reranking": "1.000 (+0.965)",
    },
}
"""DIFE, table 13. Its visual rates are over all pictures, so that nothing is 0.10."""
FOOTPRINTS = {
    "bad-encoder": "visual",
    "contrastive-poisoning": "visual",
    "liang-badclip": "visual",
    "toxic-text": "weak",
    "badclip": "coupled",
    "bad-text-tower": "textual",
}
Table = list[list[str]]


def write_report(runs: Sequence[Run], *, page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the records and fill the tables of the page from what there is."""
    scored = score(runs)
    write_records(runs, scored, results)
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    tables = {
        "natives": native_table(by_name),
        "matrix": matrix_table(by_name),
        "curation": curation_table(by_name),
        "published": published_table(by_name),
        "footprints": footprint_table(runs),
        "goals": goal_table(by_name),
        "cost": cost_table(by_name),
        "scores": score_table(scored, by_name),
        "missed": missed_table(scored, by_name),
    }
    fill_page(page, tables)


def native_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [["model", "own metric", "by seed", "needed", "verdict", "accuracy, change in points"]]
    for name, runs in by_name.items():
        if runs[0].clean:
            metric, needed, said, values = "", "", "clean control", ""
        else:
            metric, published = NATIVE[runs[0].plugin]
            needed, values = f"{ENOUGH * published:.3f}", ", ".join(rated(run.native) for run in runs)
            said = "**native not reproduced**" if len(runs) > 1 and not enough(runs) else ""
            said = "reproduced" if enough(runs) else said
        rows.append([f"`{name}`", metric, values, needed, said, ", ".join(cost_of(run) for run in runs)])
    return rows


def rated(rate: Mapping[str, Any] | None) -> str:
    return "" if rate is None else f"{rate['value']:.3f} ({rate['successes']} of {rate['n']})"


def cost_of(run: Run) -> str:
    seen = run.measured["seen"]
    if "accuracy" not in seen or "zero_shot_accuracy" not in seen:
        return ""
    return f"{100 * (seen['accuracy']['value'] - seen['zero_shot_accuracy']['value']):+.1f}"


def interfaces_of(by_name: Mapping[str, Sequence[Run]]) -> list[str]:
    return sorted({name for runs in by_name.values() for run in runs for name in run.cells})


def matrix_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [["interface", *(f"`{name}`" for name in by_name)]]
    for interface in interfaces_of(by_name):
        rows.append(
            [f"`{interface}`", *(across([run.cells[interface] for run in runs]) for runs in by_name.values())]
        )
    return rows


def across(cells: Sequence[Cell]) -> str:
    """Difference in differences in points, mean and deviation over the seeds, and the statuses."""
    if not cells:
        return ""
    numbers = [
        100 * cell.estimate.did.value
        for cell in cells
        if cell.estimate is not None and cell.estimate.did is not None
    ]
    marks = "".join("-" if cell.status is None else LETTERS[cell.status] for cell in cells)
    if not numbers:
        states = {str(cell.state) for cell in cells}
        return marks if states == {"measured"} else ", ".join(sorted(states))
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):+.1f}{spread} {marks}"


def curation_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [
        [
            "model",
            "seed",
            "interface",
            "with the trigger",
            "without",
            "base with",
            "difference in differences",
            "status",
        ]
    ]
    for name in ("bad-encoder", "contrastive-poisoning", "liang-badclip", "image-finetune"):
        for run in by_name.get(name, ()):
            for interface in ("planted-gallery", "reranking", "best-of-n", "data-filtering"):
                cell = run.cells[interface]
                found = cell.estimate
                if found is None or found.did is None or found.reference_attack is None:
                    rows.append(
                        [f"`{name}`", str(run.seed), f"`{interface}`", "", "", "", "", str(cell.state)]
                    )
                    continue
                did = found.did
                rates = [f"{rate.value:.3f}" for rate in (found.attack, found.clean, found.reference_attack)]
                low, high = 100 * did.interval.low, 100 * did.interval.high
                change = f"{100 * did.value:+.1f} ({low:+.1f} to {high:+.1f})"
                rows.append([f"`{name}`", str(run.seed), f"`{interface}`", *rates, change, str(cell.status)])
    return rows


def published_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [["attack", "interface", "published", "ours, by seed", "without the trigger"]]
    for name, cells in PUBLISHED.items():
        for interface, theirs in cells.items():
            found = [run.cells[interface].estimate for run in by_name.get(name, ())]
            ours = ", ".join("" if one is None else f"{one.attack.value:.3f}" for one in found)
            clean = ", ".join("" if one is None else f"{one.clean.value:.3f}" for one in found)
            rows.append([f"`{name}`", f"`{interface}`", theirs, ours, clean])
    return rows


def footprint_table(runs: Sequence[Run]) -> Table:
    rows = [
        [
            "model",
            "seed",
            "probe",
            "label",
            "by the paper's rule",
            "resamples that agree",
            "ratios",
            "published",
        ]
    ]
    for run in runs:
        for mark in run.exposure.footprints:
            ratios = ", ".join(f"{name} {value:.2f}" for name, value in mark.ratios.items())
            agreed = "" if mark.agreement is None else f"{mark.agreement:.1%}"
            label = label_of(mark) + (
                " (by construction)" if mark.trivial and mark.label in CONSTRUCTED else ""
            )
            theirs = FOOTPRINTS.get(run.name, "")
            rows.append(
                [
                    f"`{run.name}`",
                    str(run.seed),
                    mark.probe,
                    label,
                    str(mark.paper_label),
                    agreed,
                    ratios,
                    theirs,
                ]
            )
    return rows


CONSTRUCTED = {Label.VISUAL, Label.TEXTUAL}


def goal_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [
        [
            "model",
            "seed",
            "QHR (goal 0.98)",
            "leakage (goal 0.005)",
            "accuracy, points (goal -1)",
            "all three",
        ]
    ]
    for runs in by_name.values():
        for run in runs:
            if run.plugin != "bad-text-tower":
                continue
            seen = run.measured["seen"]
            lost = seen["zero_shot_accuracy"]["value"] - seen["accuracy"]["value"]
            met = (seen["success"]["value"] >= 0.98, seen["off_target"]["value"] <= 0.005, lost <= 0.01)
            cells = [rated(seen["success"]), rated(seen["off_target"]), cost_of(run)]
            marked = [cell + (" met" if one else "") for cell, one in zip(cells, met, strict=True)]
            rows.append([f"`{run.name}`", str(run.seed), *marked, "yes" if all(met) else "no"])
    return rows


def cost_table(by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [
        [
            "model",
            "rows computed",
            "different rows asked for",
            "rows of the cache",
            "rows differentiated",
            "within",
        ]
    ]
    for name, runs in by_name.items():
        costs = [run.exposure.cost for run in runs]
        columns = [
            ", ".join(str(getattr(cost, field)) for cost in costs)
            for field in ("computed_rows", "unique_rows", "cached_rows", "gradient_rows")
        ]
        within = all(cost.computed_rows <= cost.unique_rows for cost in costs)
        rows.append([f"`{name}`", *columns, "yes" if within else "**no**"])
    return rows


def score_table(scored: Sequence[Mapping[str, Any]], by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [["statements", "hit", "miss", "not evaluable", "Brier"]]
    own = [line for line in scored if line["probability"] is not None]
    reproduced = {name for name, runs in by_name.items() if runs[0].clean or enough(runs)}
    groups = {
        "all with a probability": own,
        "of models natively reproduced, and controls": [line for line in own if line["attack"] in reproduced],
        "planted galleries and data filtering (ours)": [
            line
            for line in own
            if line["what"] in ("planted-gallery", "data-filtering") and line["expected"] == "exposed"
        ],
        "footprints": [line for line in own if line["what"] == "footprint"],
        **{f"`{name}`": [line for line in own if line["attack"] == name] for name in by_name},
        "N.E., by the cards": [line for line in scored if line["probability"] is None],
    }
    for what, lines in groups.items():
        counts = [
            str(sum(line["result"] == word for line in lines)) for word in ("hit", "miss", "not evaluable")
        ]
        marks = [line["brier"] for line in lines if line["brier"] is not None]
        rows.append([what, *counts, f"{statistics.fmean(marks):.3f}" if marks else ""])
    return rows


def missed_table(scored: Sequence[Mapping[str, Any]], by_name: Mapping[str, Sequence[Run]]) -> Table:
    rows = [["model", "what", "expected", "probability", "came, by seed", "result"]]
    for line in scored:
        if line["result"] == "hit" or not line["seeds"]:
            continue
        came = ", ".join(came_of(run, line["what"]) for run in by_name[line["attack"]])
        rows.append(
            [
                f"`{line['attack']}`",
                line["what"],
                line["expected"],
                str(line["probability"] or ""),
                came,
                line["result"],
            ]
        )
    return rows


def label_of(mark: Footprint) -> str:
    """The label, and whether it is of mixtures: its swap is then invalid, and its ratios say nothing."""
    return f"{mark.label} (by interpolation)" if mark.interpolation is not None else str(mark.label)


def came_of(run: Run, what: str) -> str:
    if what == "native":
        return rated(run.native)
    if what == "amdet":
        return "" if run.verdict is None else str(run.verdict["outcome"])
    if what == "footprint":
        return " / ".join(map(label_of, run.exposure.footprints)) or "none"
    cell = run.cells[what]
    return str(cell.status or cell.state)
