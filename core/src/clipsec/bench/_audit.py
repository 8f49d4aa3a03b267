"""Auditing one model of a suite with some of its detectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from clipsec.bench._plan import Model, Plan, Variant
from clipsec.models import load_suspect
from clipsec.results import Outcome, Verdict, verdict_from_json, verdict_to_json
from clipsec.runner import audit
from clipsec.scheduler import FeatureCache, Scheduler

Progress = Callable[[float, str], None]


@attrs.frozen
class Audited:
    """What one detector said of one model."""

    verdict: Verdict
    tower_seconds: float | None
    """Time in towers for this detector alone, calls that it shared divided by rows. None when the verdict, or
    part of it, was there already."""
    run: str
    """Folder of the run, below that of all runs."""
    gate: str = ""
    """Why the model failed the sanity gate; empty when it passed."""

    @property
    def failure(self) -> str:
        """Why this is no answer that may be kept; empty when it is one."""
        if self.gate:
            return f"The sanity gate failed: {self.gate}"
        if self.verdict.outcome in (Outcome.ERROR, Outcome.SKIPPED):
            remedy = "" if self.verdict.error is None else self.verdict.error.remedy
            return f"{self.verdict.summary} {remedy}".strip()
        return ""

    def to_json(self) -> dict[str, Any]:
        """What the ledger keeps."""
        return {
            "verdict": verdict_to_json(self.verdict),
            "tower_seconds": self.tower_seconds,
            "run": self.run,
        }


def audited_from_json(data: dict[str, Any]) -> Audited:
    """What `to_json` wrote. Raises `StoreError`."""
    return Audited(verdict_from_json(data["verdict"]), data["tower_seconds"], data["run"])


def audit_model(
    plan: Plan,
    model: Model,
    variants: Sequence[Variant],
    *,
    delivery: Path,
    runs: Path,
    top: Path,
    shared: Path,
    cache: FeatureCache,
    progress: Progress,
) -> dict[str, Audited]:
    """Audit a delivery with some detectors in one run; by label. `top` is what the runs are named from.

    Verdicts and finished classes are stored below `runs`, what is said of the base below `shared`, so an
    interrupted audit goes on where it was. Raises what `clipsec.audit` raises.
    """
    suspect = load_suspect(delivery, device=plan.device, registry=plan.registry)
    suspect.name = model.name
    scheduler = Scheduler(cache=cache)
    fractions = dict.fromkeys((variant.session for variant in variants), 0.0)

    def advance(session: str, fraction: float, what: str) -> None:
        fractions[session] = fraction
        progress(sum(fractions.values()) / len(fractions), f"{session.rpartition('@')[2]}: {what}")

    result = audit(
        suspect,
        pool=plan.pool_of(model.dataset),
        detectors=[variant.session for variant in variants],
        options={variant.session: variant.values for variant in variants},
        runs=runs,
        shared=shared,
        seed=plan.suite.audit.seed,
        search_dtype=getattr(torch, plan.suite.audit.search_dtype),
        registry=plan.registry,
        scheduler=scheduler,
        on_progress=advance,
    )
    found = {}
    for variant in variants:
        verdict = result.verdicts[variant.session]
        seconds = scheduler.counts(variant.session).seconds
        found[variant.label] = Audited(
            verdict,
            round(seconds, 3) if seconds else None,
            Path(result.folder).resolve().relative_to(top.resolve()).as_posix(),
            "" if result.gate.passed else result.gate.reason,
        )
    return found
