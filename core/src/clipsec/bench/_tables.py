"""The tables of a bench as CSV: one line a model, a verdict, a set of models."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from clipsec.bench._outcome import BenchResult
from clipsec.bench._score import AttackQuality
from clipsec.bench._suite import METRICS
from clipsec.results import Rate
from clipsec.stats import Auroc, Proportion


def tables(result: BenchResult) -> dict[str, str]:
    """File name to CSV text."""
    return {
        "models.csv": _csv(_models(result)),
        "verdicts.csv": _csv(_verdicts(result)),
        "summary.csv": _csv(_summary(result)),
        "attacks.csv": _csv(_attacks(result)),
        **({"repairs.csv": _csv(attrs.asdict(line) for line in result.repairs)} if result.repairs else {}),
    }


def _csv(lines: Iterator[Mapping[str, Any]]) -> str:
    rows = list(lines)
    stream = io.StringIO()
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(str, value))
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        # A spreadsheet would take a class name like this for a formula.
        return f"'{value}"
    return value


def _models(result: BenchResult) -> Iterator[dict[str, Any]]:
    for line in result.models:
        found = line.measured
        row: dict[str, Any] = {
            name: getattr(line, name)
            for name in ("half", "base", "dataset", "learner", "attack", "seed", "state", "counts", "reasons")
        }
        row["targets"] = found.targets
        for name in ("accuracy", "success", "unseen_accuracy", "unseen_success", "base_success"):
            rate: Rate | None = getattr(found, name)
            row[name] = None if rate is None else rate.value
            row[f"{name}_n"] = None if rate is None else rate.n
        row["success_by_target"] = [
            f"{target} {'' if rate is None else format(rate.value, '.6g')}".rstrip()
            for target, rate in line.success_by_target.items()
        ]
        yield {**row, "seconds": line.seconds, "folder": line.folder}


def _verdicts(result: BenchResult) -> Iterator[dict[str, Any]]:
    models = {(line.half, line.name): line for line in result.models}
    for verdict in result.verdicts:
        model = models[verdict.half, verdict.model]
        yield {
            "half": verdict.half,
            "dataset": model.dataset,
            "attack": model.attack,
            "seed": model.seed,
            "model": verdict.model,
            "counts": model.counts,
            "targets": model.measured.targets,
            **{
                name: getattr(verdict, name)
                for name in (
                    "detector",
                    "state",
                    "outcome",
                    "right",
                    "found",
                    "flagged",
                    "score",
                    "threshold",
                    "seconds",
                    "tower_seconds",
                    "forward_rows",
                    "backward_rows",
                    "reason",
                    "run",
                )
            },
        }


def _summary(result: BenchResult) -> Iterator[dict[str, Any]]:
    for row in result.rows:
        found = row.quality
        line: dict[str, Any] = {"half": row.half, "scope": row.scope, "detector": row.detector}
        line |= {name: getattr(found, name) for name in ("clean", "backdoored", "no_answer", "without_score")}
        for name in ("accuracy", "sensitivity", "specificity", "target_found"):
            line |= _proportion(name, getattr(found, name))
        line |= _auroc(found.auroc)
        line |= {"f1_attacks": found.f1_attacks, "f1_datasets": found.f1_datasets}
        line |= {
            name: getattr(found.cost, name)
            for name in ("seconds", "tower_seconds", "forward_rows", "backward_rows")
        }
        published = result.detectors[row.detector]["published"]
        yield line | {f"published_{name}": published.get(name) for name in METRICS}


def _attacks(result: BenchResult) -> Iterator[dict[str, Any]]:
    for row in result.rows:
        for attack in row.attacks:
            yield {"half": row.half, "scope": row.scope, "detector": row.detector} | _attack(attack)


def _attack(found: AttackQuality) -> dict[str, Any]:
    line: dict[str, Any] = {"attack": found.attack, "backdoored": found.backdoored}
    line |= _proportion("sensitivity", found.sensitivity)
    line |= _proportion("target_found", found.target_found)
    return line | {"f1": found.f1} | _auroc(found.auroc)


def _proportion(name: str, found: Proportion) -> dict[str, Any]:
    return {
        name: found.value,
        f"{name}_k": found.k,
        f"{name}_n": found.n,
        f"{name}_low": found.interval.low,
        f"{name}_high": found.interval.high,
    }


def _auroc(found: Auroc | None) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(
            ("auroc", "auroc_low", "auroc_high", "auroc_bootstrap_low", "auroc_bootstrap_high")
        )
    return {
        "auroc": found.value,
        "auroc_low": found.interval.low,
        "auroc_high": found.interval.high,
        "auroc_bootstrap_low": found.bootstrap.low,
        "auroc_bootstrap_high": found.bootstrap.high,
    }
