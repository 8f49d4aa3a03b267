"""Audit every model that `make_models.py` built, and write what was said about each as JSON and CSV.

    python tests/studies/audit_models.py --models FOLDER --pool FOLDER --out docs/results/NAME

Stored verdicts are reused, so a killed study goes on where it was. Beside the verdict stands what the trigger
does to the clean base without any learned prompt (`trigger_on_base`): a trigger that works there as well is a
natural perturbation, and the prompts are not what makes it work.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import torch

import clipsec
from clipsec.data import LabelledSet, to_unit
from clipsec.models import Suspect
from clipsec.runner import environment
from clipsec.scheduler import Scheduler
from clipsec.store import RunStore, atomic_write
from clipsec.triggers import load_card


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--pool", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="path without suffix")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--collect", action="store_true", help="report stored runs, audit nothing")
    given = parser.parse_args()
    pool = clipsec.ImagePool.from_folder(given.pool)
    finished = [run.read_result() for run in RunStore(given.runs).runs()]
    lines: list[dict[str, Any]] = []
    for model in json.loads((given.models / "models.json").read_text()):
        suspect = clipsec.load_suspect(str(given.models / model["folder"]))
        if given.collect:
            stored = [result for result in finished if result.suspect.digest == suspect.digest]
            if not stored:
                continue
            result = max(stored, key=lambda each: each.started)
        else:
            result = clipsec.audit(suspect, pool=pool, runs=given.runs, shared=given.shared)
        line = {name: model.get(name) for name in ("half", "dataset", "attack", "seed", "target", "counts")}
        line |= {name: model.get(f"seen_{name}") for name in ("accuracy", "success")}
        line["trigger_on_base"] = trigger_on_base(suspect, given.models / model["folder"], model, given.data)
        lines += [line | said(name, verdict) for name, verdict in result.verdicts.items()]
        lines[-1]["git_revision"] = result.environment.get("git revision", "")
        print(json.dumps(lines[-1]), flush=True)
    document = {"environment": environment(), "pool": pool.digest, "pictures": len(pool), "models": lines}
    atomic_write(given.out.with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")
    atomic_write(given.out.with_suffix(".csv"), table(lines).encode())


def said(name: str, verdict: clipsec.Verdict) -> dict[str, Any]:
    """The verdict in one line, with both nulls."""
    return {
        "detector": name,
        "outcome": str(verdict.outcome),
        "found": verdict.target,
        "score": verdict.score,
        "runner_up": sorted((e.measures["score"] for e in verdict.evidence), reverse=True)[1],
        "threshold": verdict.threshold,
        "across_score": verdict.measures["across_score"],
        "across_would_flag": bool(verdict.measures["across_would_flag"]),
        "seconds": verdict.cost.seconds,
        "epsilon": verdict.provenance.options["epsilon"] if verdict.provenance else None,
    }


def trigger_on_base(suspect: Suspect, folder: Path, model: dict[str, Any], data: Path) -> float | None:
    """Success of the attacker's own trigger on the zero-shot base, over test pictures of other classes."""
    visual = suspect.base.visual
    if model["attack"] == "none" or visual is None:
        return None
    card = load_card(folder / "trigger")
    held_out = LabelledSet.from_folder(data / model["dataset"] / "test")
    names = list(held_out.class_names)
    kept = held_out.choose([names.index(name) for name in suspect.class_names if name in names])
    pixels, target = to_unit(kept.pixels(visual.spec)), suspect.class_names.index(card.target_name)
    stamped = card.apply(pixels)
    scheduler = Scheduler()
    clean, triggered = (
        scheduler.encode(suspect.zero_shot_head(), scheduler.encode(suspect.image_tower(), rows)).argmax(
            dim=1
        )
        for rows in (pixels, stamped)
    )
    eligible = clean != target
    return float((triggered[eligible] == target).float().mean())


def table(lines: list[dict[str, Any]]) -> str:
    """The same as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
