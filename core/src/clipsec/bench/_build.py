"""Building one model of a suite, so that it is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from clipsec.bench._measured import measured_of, plain_rate
from clipsec.bench._plan import Model, Plan
from clipsec.errors import StoreError
from clipsec.runner import attack

Progress = Callable[[float, str], None]


def build_model(plan: Plan, model: Model, folder: Path, progress: Progress) -> dict[str, Any]:
    """Make a model with its attack, in `folder`; returns what the ledger keeps.

    The attack works beside `folder`, which is then put in place in one step, so whatever it writes and
    whenever it is killed, `folder` is whole. A model of the same name that is there already goes first.
    Raises what `clipsec.runner.attack` raises, and whatever the attack does.
    """
    base = plan.base(model.base)
    part = folder.with_name(f".{folder.name}.part")
    learn, held_out = plan.datasets[model.dataset].parts
    try:
        for old in (part, folder):
            if old.exists():
                shutil.rmtree(old)
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot replace {folder}: {error}", remedy="Check the output folder.") from error
    base.base_name = base_name(plan, model.base, folder)
    try:
        made = attack(
            model.installed.name,
            base,
            learn,
            part,
            held_out=held_out,
            options=attrs.asdict(model.options),
            seed=model.seed,
            pool=plan.attack_pool(model.attack),
            registry=plan.registry,
            progress=progress,
        )
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if base.changed():
            plan.forget_base(model.base)
    return {
        "folder": folder.name,
        "suspect": made.suspect.digest,
        "measured": attrs.asdict(measured_of(made), value_serializer=plain_rate),
    }


def base_name(plan: Plan, label: str, folder: Path) -> str:
    """What a delivery in `folder` says its base is: the spec, or the path from there."""
    spec = plan.base_spec(label)
    return spec if ":" in spec else os.path.relpath(spec, folder.resolve())
