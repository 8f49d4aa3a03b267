"""The study of docs/who_sees_what.md: every attack beside every detector, on zoo:mini.

    python -m tests.studies.who_sees_what --data DATA --out OUT                 # hours of a core; resumes
    python -m tests.studies.who_sees_what --data DATA --out OUT --only report
    python -m tests.studies.who_sees_what --data DATA --out OUT --model badnets --detector decree

DATA holds `scene15/`, `clothing10/`, `cifar10/`, `eurosat/`, `ood_open/`, `text/`, `coco_pairs/`,
`flickr8k_300/` and `pretrain/`. Every model and every verdict is a unit of OUT: what is there is not made
again, nor a verdict that another study published of the same settings and seed, nor, without `--fresh`, one
that docs/results/who_sees_what.json holds. Models of the exposure study that lie in a folder named with
`--models` (its OUT/models) are taken from there. Settings were fixed before the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clipsec.data import ImagePool, LabelledSet
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import load_trigger
from clipsec.results import ClassEvidence
from clipsec.runner import attack, audit, read_pictures_to_attack, shipped_labelled
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import atomic_write
from clipsec_registry import Registry

from .amdet import study_files
from .exposure_mini import BASE, Plan, Study
from .samples_mini import bdetclip, density
from .who_detectors import DETECTORS, ROUNDS
from .who_models import CIFAR, MODELS, PICTURE, PROMPTS, SCENES, Model, facts
from .who_published import facts_elsewhere, implied, verdict_elsewhere
from .who_report import published_rows, report

SAMPLES = ("bdetclip", "local-density")


def main() -> None:
    """Do what is not done yet, cheap detectors first, then write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--n", type=int, default=1, help="seeds of each model")
    parser.add_argument("--models", type=Path, help="a folder with models that need not be made again")
    parser.add_argument("--model", action="append", choices=[model.name for model in MODELS])
    parser.add_argument("--detector", action="append", choices=(*DETECTORS, "samples"))
    parser.add_argument("--fresh", action="store_true", help="the published verdicts again too")
    parser.add_argument("--only", choices=("report",))
    given = parser.parse_args()
    maker = Maker(given.data, given.out, given.models, fresh=given.fresh)
    if given.only is None:
        for label, number, model in units(given.model, given.detector, given.n):
            maker.make(model, number, label)
    report([maker.row(model, number) for number in range(given.n) for model in MODELS])


def units(models: Sequence[str] | None, labels: Sequence[str] | None, n: int) -> list[tuple[str, int, Model]]:
    """(detector, number, model), round by round; `samples` after the first."""
    rounds = (ROUNDS[0], ("samples",), *ROUNDS[1:])
    return [
        (label, number, model)
        for labels_of_round in rounds
        for number in range(n)
        for model in MODELS
        for label in labels_of_round
        if (models is None or model.name in models) and (labels is None or label in labels)
    ]


class Maker:
    """Makes models and audits them."""

    def __init__(self, data: Path, out: Path, models: Path | None, *, fresh: bool) -> None:
        self.data, self.out, self.given = data, out, models
        (out / "models").mkdir(parents=True, exist_ok=True)
        self.registry = Registry()
        self.scheduler = Scheduler(cache=FeatureCache())
        self.study = Study(data, out, self.registry)
        self.known = {} if fresh else published_rows()
        self.files = study_files(data, out)

    @cached_property
    def pool(self) -> ImagePool:
        """Unlabelled pictures that every audit is given."""
        return ImagePool.from_folder(self.data / "ood_open")

    def model(self, model: Model, number: int) -> Path:
        """The delivery; made, or linked from elsewhere, if it is not there. It is written whole or not at
        all."""
        folder = self.out / "models" / f"{model.name}-{number}"
        if folder.is_dir():
            return folder
        exposed = isinstance(model.recipe, Plan)
        if exposed and self.given is not None and (self.given / folder.name).is_dir():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.given / folder.name, part)
            os.replace(part, folder)
            return folder
        if isinstance(model.recipe, Plan):
            return self.study.model(model.recipe, number)
        began, pool = time.process_time(), None
        if model.place == PROMPTS:
            learned, held_out = read_pictures_to_attack(self.data / SCENES)
            pool = ImagePool.from_folder(self.data / "clothing10") if model.name == "semantic" else None
        else:
            shipped = shipped_labelled(self.registry)
            assert shipped is not None, "clipsec-zoo is not installed"
            learned, held_out = LabelledSet.from_folder(shipped[1]), None
        attack(
            model.plugin,
            load_suspect(BASE, registry=self.registry),
            learned,
            folder,
            held_out=held_out,
            options=model.options(number, self.files),
            seed=model.seed(number),
            pool=pool,
            registry=self.registry,
        )
        print(f"{folder.name}: made in {time.process_time() - began:.0f} core-seconds", flush=True)
        return folder

    def labelled(self, model: Model) -> LabelledSet | None:
        """Pictures of what a client uses a whole CLIP for: its classes, and what the sanity gate measures it
        on. Other deliveries name their classes, or have none."""
        if not isinstance(model.recipe, Plan):
            return None
        return self.study.pictures(model.recipe.data, small=True)[0]

    def row(self, model: Model, number: int) -> dict[str, Any]:
        """What is known of a model and its verdicts."""
        known, folder = self._known(model, number), self.out / "models" / f"{model.name}-{number}"
        if folder.is_dir():
            told = facts(folder)
        else:
            told = facts_elsewhere(model, number) or {
                "targets": known.get("targets", []),
                "words": known.get("words", []),
                "measured": known.get("measured", {}),
            }
        labels = {label: self._unit(model, number, label) for label in DETECTORS}
        samples = {label: self._sampled(model, number, label) for label in SAMPLES}
        options = model.options(number, self.files)
        return {
            "name": model.name,
            "number": number,
            "plugin": model.plugin,
            "place": model.place,
            "trigger": model.trigger,
            "benign": model.benign,
            "seed": model.seed(number),
            "options": {k: Path(v).name if k in ("captions", "pairs") else v for k, v in options.items()},
            **told,
            "verdicts": {label: said for label, said in labels.items() if said},
            "samples": {label: said for label, said in samples.items() if said},
        }

    def make(self, model: Model, number: int, label: str) -> None:
        """One verdict, or all about samples, unless it is there."""
        if label == "samples":
            if isinstance(model.recipe, Plan) and model.recipe.data == CIFAR and model.trigger == PICTURE:
                self._samples(model, number)
        elif self._unit(model, number, label) is None:
            self._audit(model, number, label)

    def _known(self, model: Model, number: int) -> dict[str, Any]:
        row = self.known.get(f"{model.name}-{number}", {})
        return row if row.get("seed") == model.seed(number) else {}

    def _unit(self, model: Model, number: int, label: str) -> dict[str, Any] | None:
        """A verdict that is there, was published here or by another study, or follows from what the model
        is."""
        place = self._place(label, model, number)
        if place.is_file():
            return json.loads(place.read_text(encoding="utf-8"))
        known: dict[str, Any] = self._known(model, number).get("verdicts", {})
        return known.get(label) or verdict_elsewhere(model, number, label) or implied(model, label)

    def _place(self, label: str, model: Model, number: int) -> Path:
        return self.out / "verdicts" / label / f"{model.name}-{number}.json"

    def _audit(self, model: Model, number: int, label: str) -> None:
        folder, detector = self.model(model, number), DETECTORS[label]
        labelled = self.labelled(model)
        names = None if labelled is None else labelled.class_names
        suspect = load_suspect(str(folder), class_names=names, registry=self.registry)
        reference = load_suspect(BASE, class_names=suspect.class_names or None, registry=self.registry)
        began = time.process_time()
        result = audit(
            suspect,
            pool=self.pool,
            labelled=labelled,
            detectors=[detector.plugin],
            options={detector.plugin: detector.options},
            reference=reference,
            runs=self.out / "runs",
            shared=self.out / "shared",
            registry=self.registry,
            scheduler=self.scheduler,
        )
        spent = time.process_time() - began
        (verdict,) = result.verdicts.values()
        found = {
            "outcome": str(verdict.outcome),
            "summary": verdict.summary,
            "target": verdict.target,
            "score": verdict.score,
            "threshold": verdict.threshold,
            "best": max(verdict.evidence, key=strength).name if verdict.evidence else None,
            "measures": verdict.measures,
            "gate": "" if result.gate.passed else result.gate.reason,
            "seconds": round(spent, 1),
            "forward_rows": verdict.cost.forward_rows,
            "backward_rows": verdict.cost.backward_rows,
        }
        _write(self._place(label, model, number), found)
        print(f"{label} of {folder.name}: {verdict.outcome} {verdict.score} in {spent:.0f} s", flush=True)

    def _sampled(self, model: Model, number: int, label: str) -> dict[str, Any] | None:
        place = self._place(label, model, number)
        if place.is_file():
            return json.loads(place.read_text(encoding="utf-8"))
        found: dict[str, Any] | None = self._known(model, number).get("samples", {}).get(label)
        return found

    def _samples(self, model: Model, number: int) -> None:
        """Triggered pictures, and pairs with the trigger, judged by the poisoned model itself."""
        assert isinstance(model.recipe, Plan)
        data = self.data

        def judge(label: str, measure: Callable[[Suspect, Any], dict[str, Any]]) -> None:
            if self._sampled(model, number, label) is None:
                folder, began = self.model(model, number), time.process_time()
                suspect = load_suspect(str(folder), registry=self.registry)
                found = measure(suspect, load_trigger(folder).apply)
                _write(
                    self._place(label, model, number),
                    {**found, "seconds": round(time.process_time() - began, 1)},
                )
                print(f"{label} of {folder.name}", flush=True)

        learned, held_out = read_pictures_to_attack(data / CIFAR)
        assert held_out is not None
        judge("bdetclip", lambda suspect, stamp: bdetclip(suspect, learned, held_out, stamp))
        judge("local-density", lambda suspect, stamp: density(suspect, data, stamp))


def strength(item: ClassEvidence) -> float:
    """What a detector's items of evidence are compared by; without a score they are all alike."""
    return item.measures.get("score", 0.0)


def _write(place: Path, found: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(place, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
