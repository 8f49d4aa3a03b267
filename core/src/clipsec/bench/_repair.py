"""Repairing one model of a suite, from what a detector said of it."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clipsec.bench._audit import Audited
from clipsec.bench._plan import Model, Plan, Variant
from clipsec.models import load_suspect
from clipsec.results import GateResult, RepairResult, RunResult, repair_from_json, repair_to_text
from clipsec.runner import environment, load_planted, repair
from clipsec.scheduler import FeatureCache, Scheduler

Progress = Callable[[float, str], None]


def repair_model(
    plan: Plan,
    model: Model,
    variant: Variant,
    audited: Audited,
    *,
    delivery: Path,
    runs: Path,
    output: Path,
    shared: Path,
    cache: FeatureCache,
    progress: Progress,
) -> RepairResult:
    """Repair a delivery from one verdict about it; `output` is there afterwards only if it was repaired.

    The repair learns from the pictures that the attack learned from and is measured on those held out; the
    attacker's own triggers are measured, and never shown to it. Raises what `clipsec.runner.repair` raises.
    """
    suspect = load_suspect(delivery, device=plan.device, registry=plan.registry)
    suspect.name = model.name
    learn, held_out = plan.datasets[model.dataset].parts
    finding = RunResult(
        suspect=suspect.card,
        verdicts={plan.suite.repairs[variant.label].detector: audited.verdict},
        gate=GateResult(True, {}),
        environment=environment(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        folder=str(runs / audited.run),
    )
    if output.exists():
        shutil.rmtree(output)
    return repair(
        suspect,
        finding=finding,
        labelled=learn,
        held_out=held_out,
        output=output,
        plugin=variant.installed.name,
        options={variant.installed.name: variant.values},
        trigger=load_planted(delivery),
        pool=plan.pool_of(model.dataset),
        seed=plan.suite.audit.seed,
        search_dtype=getattr(torch, plan.suite.audit.search_dtype),
        registry=plan.registry,
        scheduler=Scheduler(cache=cache),
        shared=shared,
        on_progress=progress,
    )


def repair_data(result: RepairResult) -> dict[str, Any]:
    """What the ledger keeps."""
    data: dict[str, Any] = json.loads(repair_to_text(result))
    return data


def repair_of(data: dict[str, Any]) -> RepairResult:
    """What `repair_data` made plain. Raises `StoreError`."""
    return repair_from_json(data)
