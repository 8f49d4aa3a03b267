"""Building one model of a suite, so that it is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from clipsec.bench._measured import read_measured
from clipsec.bench._plan import Model, Plan
from clipsec.errors import ContractError, StoreError
from clipsec.models import load_suspect
from clipsec.protocols import AttackContext

Progress = Callable[[float, str], None]


def build_model(plan: Plan, model: Model, folder: Path, progress: Progress) -> dict[str, Any]:
    """Make a model with its attack, in `folder`; returns what the ledger keeps.

    The attack works beside `folder`, which is then put in place in one step, so whatever it writes and
    whenever it is killed, `folder` is whole. A model of the same name that is there already goes first.
    Raises whatever the attack raises, and `ContractError` when it changed the base or did not use its folder.
    """
    base = plan.base(model.base)
    part = folder.with_name(f".{folder.name}.part")
    pictures = plan.datasets[model.dataset]
    try:
        for old in (part, folder):
            if old.exists():
                shutil.rmtree(old)
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot replace {folder}: {error}", remedy="Check the output folder.") from error
    base.base_name = base_name(plan, model.base, folder)
    context = AttackContext(
        base=base,
        options=model.options,
        labelled=pictures.learn,
        held_out=pictures.held_out,
        output=part,
        seed=model.seed,
        progress=progress,
    )
    try:
        made = model.installed.plugin().poison(context)
        if changed := base.changed():
            plan.forget_base(model.base)
            raise ContractError(
                f"{model.installed.name} changed the base in memory ({', '.join(changed)[:200]})",
                remedy="Report it to the authors of the attack.",
            )
        if not part.is_dir() or Path(made).resolve() != part.resolve():
            raise ContractError(
                f"{model.installed.name} did not write its delivery into the folder it was given",
                remedy="Report it to the authors of the attack.",
            )
        # Loading it here shows that it can be delivered, and its digest decides the keys of its audits.
        digest = load_suspect(part, registry=plan.registry).digest
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {
        "folder": folder.name,
        "suspect": digest,
        "measured": attrs.asdict(read_measured(folder)),
    }


def base_name(plan: Plan, label: str, folder: Path) -> str:
    """What a delivery in `folder` says its base is: the spec, or the path from there."""
    spec = plan.base_spec(label)
    return spec if ":" in spec else os.path.relpath(spec, folder.resolve())
