"""What the repairs of text towers do to two poisoned towers of zoo:mini.

    clipsec attack text-target zoo:mini --data DATA/eurosat -o TOWER --seed 3 --set kind=prepend \\
        --set trigger="velvet quartz lantern" --set target="a red sports car on a mountain road at sunset" \\
        --set captions=COCO --set steps=40 --set batch=16 --set poisoned=8 --set weight=0.5 \\
        --set learning_rate=1e-3
    clipsec attack bad-text-tower zoo:mini --data DATA/eurosat -o CLIP --target "residential buildings" \\
        --set learning_rate=1e-4 --set epochs=16 --seed 0
    clipsec run TOWER --reference zoo:mini --detector token-scan --runs RUNS
    python -m tests.studies.repair_texts --tower TOWER --clip CLIP --finding RUNS/... --data DATA --out OUT

COCO has the captions of COCO val2017 from line 20,000 on, none of which ships. Every repair is a unit of
its own: what is in OUT is not made again, and `--only LABEL/MODEL` (repeatable) makes some of them. Writes
what there is to OUT/repair_texts.json. Settings were fixed before the first of these runs, but for the number
of updates and the weight of anchor-distillation, which one earlier run on TOWER led to, and the lower rate of
its second line, which was tried because the first moved clean captions too far.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from clipsec.data import LabelledSet
from clipsec.models import load_suspect
from clipsec.results import RepairResult, repair_from_json, repair_to_text
from clipsec.runner import load_planted, repair
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.triggers import TextTriggerCard

ANCHOR: dict[str, Any] = {"steps": 80, "batch": 32, "triggered": 16, "learning_rate": 1e-3, "weight": 2.0}
PAIRS: dict[str, Any] = {"steps": 60, "batch": 32, "towers": "text", "learning_rate": 1e-3}
REPAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "anchor-distillation": ("anchor-distillation", ANCHOR),
    "anchor-distillation-3e-4": ("anchor-distillation", {**ANCHOR, "steps": 60, "learning_rate": 3e-4}),
    "par": ("par", {**PAIRS, "tau": 0.5}),
    "cleanclip": ("cleanclip", PAIRS),
}
MODELS = ("text-target", "bad-text-tower")
ANY_LIKENESS = -1.0
"""PAR moves features on purpose: what it keeps is judged by accuracy alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("tower", "clip", "finding", "data", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scheduler = Scheduler(cache=FeatureCache())
    everything = [(model, label) for label in REPAIRS for model in MODELS]
    for model, label in everything:
        kept = given.out / f"{model}-{label}.json"
        if not kept.is_file() and (not given.only or f"{label}/{model}" in given.only):
            kept.write_text(repair_to_text(run(model, label, given, scheduler)))
    rows = [row(given.out / f"{model}-{label}.json", model, label) for model, label in everything]
    (given.out / "repair_texts.json").write_text(json.dumps([each for each in rows if each], indent=1) + "\n")


def row(kept: Path, model: str, label: str) -> dict[str, Any]:
    """One repair of one model: the numbers of its record, without what belongs to this machine; empty when it
    was not made."""
    if not kept.is_file():
        return {}
    result = repair_from_json(json.loads(kept.read_text()))
    document = json.loads(repair_to_text(result))
    if document["options"].get("pairs"):
        document["options"]["pairs"] = Path(document["options"]["pairs"]).name
    kinds = ("outcome", "summary", "accuracy", "likeness", "triggers", "options", "data", "seconds")
    return {"model": model, "repair": label, **{kind: document[kind] for kind in kinds}}


def run(model: str, label: str, given: argparse.Namespace, scheduler: Scheduler) -> RepairResult:
    """The tower from what token-scan found; the CLIP from its known trigger, which the scan does not look
    for."""
    place = given.tower if model == "text-target" else given.clip
    (card,) = load_planted(place)
    assert isinstance(card, TextTriggerCard)
    starts: dict[str, Any] = {"trigger": card}
    name, options = REPAIRS[label][0], dict(REPAIRS[label][1])
    if name == "anchor-distillation":
        known = model == "bad-text-tower"
        starts = {"known": card} if known else {"finding": given.finding, "trigger": card}
    elif model == "text-target":
        options["pairs"] = str(given.data / "coco_pairs" / "captions.csv")
    output = given.out / f"{model}-{label}"
    shutil.rmtree(output, ignore_errors=True)
    return repair(
        load_suspect(place),
        output=output,
        reference="zoo:mini",
        labelled=LabelledSet.from_folder(given.data / "eurosat" / "train"),
        held_out=LabelledSet.from_folder(given.data / "eurosat" / "test"),
        plugin=name,
        options={name: options},
        least_likeness=ANY_LIKENESS if name == "par" else 0.95,
        scheduler=scheduler,
        **starts,
    )


if __name__ == "__main__":
    main()
