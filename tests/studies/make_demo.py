"""Train the three deliveries that clipsec-zoo ships for the demo, and write them into its package data.

    OMP_NUM_THREADS=1 python tests/studies/make_demo.py --data FOLDER

Flowers102 (ten classes), CoCoOp on zoo:mini: one clean, one BadCLIP, one Blended, with targets drawn by
their seeds. They are demonstrations, not a test of any detector: seeds and settings were chosen among a few
so that each attack succeeds on more than 85 of 100 pictures, harms accuracy by less than three points, and
acts through the prompts (its trigger does nothing to the clean base). The models go to `deliveries/NAME`,
without a trace of the trigger; the truth, with every setting, to `answers/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from clipsec.models import load_suspect
from clipsec.runner import attack, read_pictures_to_attack
from clipsec.store import atomic_write

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_DATA = ROOT / "plugins/zoo/src/clipsec_zoo/data"
DATASET = "flowers102_10class"
LEARNER = {"batch": 8, "learning_rate": 0.1, "epochs": 10, "split": "all", "image_dtype": "bfloat16"}
MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "demo-clean": ("none", 3, {}),
    "demo-badclip": ("badclip", 7, {"epsilon": 0.047, "trigger_rule": "sign", "target": "random"}),
    "demo-blended": (
        "blended",
        4,
        {"ratio": 0.5, "poison_rate": 0.3, "target": "random"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    data = parser.parse_args().data / DATASET
    base = load_suspect("zoo:mini")
    labelled, held_out = read_pictures_to_attack(data)
    for name, (attack_name, seed, settings) in MODELS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = attack(
                attack_name,
                base,
                labelled,
                Path(temporary) / name,
                held_out=held_out,
                options={**LEARNER, **settings},
                seed=seed,
            ).folder
            card = folder / "trigger" / "trigger.json"
            record = json.loads((card if card.is_file() else folder / "training.json").read_text())
            answer = {
                "attack": None if attack_name == "none" else attack_name,
                "target": record.get("target_name"),
                "seed": seed,
                "settings": {**LEARNER, **settings},
                "measured": record["measured"],
            }
            place = PACKAGE_DATA / "deliveries" / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            shutil.copytree(folder / "prompt_learner", place / "prompt_learner")
            shutil.copy(folder / "clipsec.json", place)
        atomic_write(PACKAGE_DATA / "answers" / f"{name}.json", json.dumps(answer, indent=1).encode() + b"\n")
        print(name, json.dumps(answer["measured"]))


if __name__ == "__main__":
    main()
