"""A first look at DECREE on the image tower of zoo:mini: backdoored and tuned towers, made and audited here.

    python -m tests.studies.decree_mini --data DATA --out OUT

DATA holds `cifar10/`. Every model is a unit of its own: what is in OUT/rows is not made again. Writes
OUT/decree_mini.json. Models, seeds and the options of the detector were fixed before the first audit. Each is
audited alone; pictures, batches and start are those of the base, so the ratio to its PL1 is what the rule
`paired` compares. `--most N` stops after N models: on two busy cores one takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from clipsec.data import ImagePool
from clipsec.models import load_suspect
from clipsec.runner import attack, audit, read_pictures_to_attack, shipped_pool
from clipsec_registry import Registry

ATTACK: dict[str, Any] = {"target": "airplane", "epochs": 3}
FINETUNE: dict[str, Any] = {"learning_rate": 1e-4, "steps": 60}
BASE = "zoo:mini"
SEARCH: dict[str, Any] = {"patience": 10}
"""Published for small pictures; 35 on busy cores would take too long."""
MODELS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("bad-encoder", 0, ATTACK),
    ("base", 0, {}),
    ("image-finetune", 0, FINETUNE),
    ("bad-encoder", 1, {**ATTACK, "target": "horse"}),
    ("image-finetune", 1, FINETUNE),
    ("bad-encoder", 2, {**ATTACK, "target": "ship"}),
    ("image-finetune", 2, FINETUNE),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--most", type=int, default=len(MODELS))
    given = parser.parse_args()
    (given.out / "rows").mkdir(parents=True, exist_ok=True)
    registry = Registry()
    rows = [_row(*model, given.data, given.out, registry) for model in MODELS[: given.most]]
    sizes = {row["attack"]: row["measures"]["pl1"] for row in rows}
    for row in rows:
        row["ratio"] = sizes["base"] / row["measures"]["pl1"] if "base" in sizes else None
    result = {
        "command": "python -m tests.studies.decree_mini --data DATA --out OUT",
        "options": SEARCH,
        "planned": len(MODELS),
        "torch": torch.__version__,
        "models": rows,
    }
    (given.out / "decree_mini.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _row(
    plugin: str, seed: int, options: dict[str, Any], data: Path, out: Path, registry: Registry
) -> dict[str, Any]:
    place = out / "rows" / f"{plugin}-{seed}.json"
    if place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))
    folder, measured = out / "models" / place.stem, {}
    if plugin != "base":
        learned, held_out = read_pictures_to_attack(data / "cifar10")
        if not folder.is_dir():  # it is written whole or not at all
            base = load_suspect(BASE, registry=registry)
            attack(
                plugin,
                base,
                learned,
                folder,
                held_out=held_out,
                options=options,
                seed=seed,
                registry=registry,
            )
        card = folder / "trigger" / "trigger.json"
        record = card if card.is_file() else folder / "training.json"
        measured = json.loads(record.read_text(encoding="utf-8"))["measured"]
    shipped = shipped_pool(registry)
    assert shipped is not None, "clipsec-zoo is not installed"
    result = audit(
        BASE if plugin == "base" else str(folder),
        detectors=["decree"],
        options={"decree": SEARCH},
        pool=ImagePool.from_folder(shipped[1]),
        runs=out / "runs",
        registry=registry,
    )
    (verdict,) = result.verdicts.values()
    row = {
        "attack": plugin,
        "seed": seed,
        "options": options,
        "measured": measured,
        "outcome": str(verdict.outcome),
        "summary": verdict.summary,
        "score": verdict.score,
        "measures": verdict.measures,
        "starts": [item.measures for item in verdict.evidence],
        "notes": list(verdict.notes),
        "seconds": verdict.cost.seconds,
        "forward_rows": verdict.cost.forward_rows,
        "backward_rows": verdict.cost.backward_rows,
    }
    place.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(plugin, seed, row["outcome"], row["summary"], flush=True)
    return row


if __name__ == "__main__":
    main()
