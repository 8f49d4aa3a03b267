"""The four controls of CLIP-Inspector's repair on one delivery, and ours, as a table.

    OMP_NUM_THREADS=1 python tests/studies/repair_controls.py DELIVERY --finding RUN --data FOLDER

`DELIVERY` is what an attack wrote, with its card in `trigger/`; `RUN` the run of clip-inspector on it with
`--detector clip-inspector -o clip-inspector.schedule=full` (the control "wrong" needs the trigger of a
class that is not flagged); `FOLDER` holds `train/` for the repair and `test/` to measure on. Printed, and
written to `NAME.json`: clean accuracy, success of the found trigger and of the attacker's own, before and
after. No control sees the attacker's trigger or a test picture. All but ours run all epochs and keep the
last, as published.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import clipsec
from clipsec.data import LabelledSet
from clipsec.models import load_suspect
from clipsec.protocols import load_trigger
from clipsec.results import BeforeAfter, repair_to_text
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import atomic_write

REPAIR = "prompt-finetune"
_PUBLISHED = {"rounds": 0, "probes": False, "learning_rate": 0.002, "stop_success": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "clean": {**_PUBLISHED, "control": "clean"},
    "noise": {**_PUBLISHED, "control": "noise"},
    "wrong": {**_PUBLISHED, "control": "wrong"},
    "right": {**_PUBLISHED, "control": "right"},
    "ours": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("delivery")
    parser.add_argument("--finding", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    suspect = load_suspect(asked.delivery)
    trigger = load_trigger(Path(asked.delivery) / "trigger")
    train, test = (LabelledSet.from_folder(asked.data / part) for part in ("train", "test"))
    scheduler = Scheduler(cache=FeatureCache())
    records = {}
    print(f"{'control':8} {'accuracy':>16} {'found trigger':>16} {'true trigger':>16}  seconds")
    for name in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            result = clipsec.repair(
                suspect,
                finding=asked.finding,
                labelled=train,
                held_out=test,
                output=Path(folder) / "repaired",
                plugin=REPAIR,
                options={REPAIR: SETTINGS[name]},
                trigger=trigger,
                seed=asked.seed,
                scheduler=scheduler,
            )
        rates = (result.accuracy, result.triggers[0].success, result.triggers[-1].success)
        print(f"{name:8} {' '.join(map(shown, rates))}  {result.seconds:.0f}", flush=True)
        records[name] = json.loads(repair_to_text(result))
        if asked.out is not None:
            atomic_write(asked.out.with_suffix(".json"), json.dumps(records, indent=1).encode() + b"\n")


def shown(rate: BeforeAfter) -> str:
    return f"{rate.before.value:7.1%} ->{rate.after.value:6.1%}"


if __name__ == "__main__":
    main()
