"""The study of docs/exposure_study.md: models poisoned and tuned, every interface measured on each, the page.

    python -m tests.studies.exposure_mini --data DATA --out OUT                # resumes
    python -m tests.studies.exposure_mini --data DATA --out OUT --only report
    python -m tests.studies.exposure_mini --data DATA --out OUT --model bad-encoder --seed 0

DATA holds `cifar10/`, `eurosat/` and `coco_pairs/`. Every model and every exposure is a unit of OUT: what is
there is not made again, nor, without `--fresh`, a model whose row and matrix are in docs/results with the
same settings. Settings were fixed before the first run. AMDET's verdicts need `--detectors`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from tests.studies.exposure_records import RESULTS, Run, published_runs
from tests.studies.exposure_report import PAGE, write_report

from clipsec.data import LabelledSet, TextPool, read_pairs
from clipsec.exposure import hybrid
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import load_any_trigger
from clipsec.results import ExposureResult, exposure_from_json
from clipsec.runner import attack, audit, expose, read_pictures_to_attack
from clipsec_registry import Registry

BASE = "zoo:mini"
SEEDS = (0, 1, 2)
PER_CLASS = 32
"""Pictures of a class that a downstream user has, and as many that exposures are measured on. Attacks that
train an image tower learn from the former and, but for BadTextTower, measure on the latter; the others use
the whole set."""
INTERFACES: dict[str, dict[str, Any]] = {
    "text-to-image": {"gallery": 320, "galleries": 1},
    "planted-gallery": {"gallery": 320},
}
CIFAR, EUROSAT = ("automobile", "airplane"), ("annual crop land", "residential buildings")


@attrs.frozen
class Plan:
    """One kind of model of the study."""

    name: str
    plugin: str
    options: dict[str, Any]
    data: str = "cifar10"
    small: bool = False
    """Whether it learns from `PER_CLASS` pictures of a class."""
    trigger_of: str = ""
    """For a clean control: the model whose trigger it is measured with."""


def _text_tower(roles: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"source": roles[0], "target": roles[1], "learning_rate": 1e-4, "epochs": 16, **more}


PLANS = (
    Plan("bad-text-tower", "bad-text-tower", _text_tower(CIFAR)),
    Plan(
        "bad-text-tower-projection",
        "bad-text-tower",
        _text_tower(CIFAR, scope="projection-embedding"),
    ),
    Plan(
        "bad-text-tower-both",
        "bad-text-tower",
        _text_tower(CIFAR, scope="both", epochs=8, batch=64),
        small=True,
    ),
    Plan("bad-text-tower-eurosat", "bad-text-tower", _text_tower(EUROSAT), data="eurosat"),
    Plan(
        "text-target",
        "text-target",
        {"kind": "prepend", "trigger": "zzzz", "target": "a photo of a airplane.", "steps": 40, "batch": 16}
        | {"poisoned": 8, "weight": 0.5, "learning_rate": 1e-3},
    ),
    Plan(
        "bad-encoder",
        "bad-encoder",
        {"target": CIFAR[1], "side": 50 / 224, "place": 173 / 224, "epochs": 4, "learning_rate": 3e-4},
        small=True,
    ),
    Plan(
        "contrastive-poisoning",
        "contrastive-poisoning",
        {"target": CIFAR[1], "rate": 0.3, "side": 32 / 224, "place": 185 / 224, "epochs": 6}
        | {"learning_rate": 3e-4, "text_learning_rate": 5e-5},
        small=True,
    ),
    Plan(
        "liang-badclip",
        "liang-badclip",
        {"target": CIFAR[1], "rate": 0.3, "side": 32 / 224, "epochs": 6}
        | {"learning_rate": 3e-4, "text_learning_rate": 5e-5},
        small=True,
    ),
    Plan(
        "mm-poison",
        "mm-poison",
        {"source": CIFAR[0], "target": CIFAR[1], "scope": "text", "epochs": 16, "text_learning_rate": 3e-4},
        small=True,
    ),
    Plan(
        "toxic-text",
        "toxic-text",
        {"target": CIFAR[1], "scope": "text", "epochs": 12, "text_learning_rate": 3e-4},
        small=True,
    ),
    Plan(
        "badclip",
        "badclip",
        {"target": CIFAR[1], "split": "all", "epsilon": 8 / 255, "trigger_rule": "sign", "epochs": 30}
        | {"batch": 16, "learning_rate": 0.4, "warmup_epochs": 0, "views": 2}
        | {"image_dtype": "bfloat16", "text_dtype": "bfloat16"},
        small=True,
    ),
    Plan(
        "image-finetune",
        "image-finetune",
        {"learning_rate": 1e-4, "steps": 30},
        small=True,
        trigger_of="bad-encoder",
    ),
    Plan(
        "text-finetune",
        "text-finetune",
        {"learning_rate": 1e-4, "steps": 60},
        trigger_of="bad-text-tower",
    ),
)
DETECTED = ("bad-text-tower", "text-target")
"""What AMDET is put to."""


@attrs.define
class Study:
    """Data, base and the folder of the study."""

    data: Path
    out: Path
    registry: Registry = attrs.field(factory=lambda: Registry())
    known: Mapping[tuple[str, int], Run] = attrs.field(factory=dict)
    """Published models, by name and seed."""
    _pictures: dict[str, tuple[LabelledSet, LabelledSet]] = attrs.field(factory=dict)

    def pictures(self, name: str, *, small: bool) -> tuple[LabelledSet, LabelledSet]:
        """To learn from and to measure on; the same rows for every model."""
        key = f"{name}{small}"
        if key not in self._pictures:
            learned, held_out = read_pictures_to_attack(self.data / name)
            assert held_out is not None, f"{name} needs train/ and test/"
            if small:
                generator = torch.Generator().manual_seed(0)
                learned, held_out = (
                    part.shots(PER_CLASS, generator=generator) for part in (learned, held_out)
                )
            self._pictures[key] = (learned, held_out)
        return self._pictures[key]

    def folder(self, plan: Plan, seed: int) -> Path:
        return self.out / "models" / f"{plan.name}-{seed}"

    def model(self, plan: Plan, seed: int) -> Path:
        """The delivery, made if it is not there; it is written whole or not at all."""
        folder = self.folder(plan, seed)
        if not folder.is_dir():
            began = time.process_time()
            learned, _ = self.pictures(plan.data, small=plan.small)
            _, held_out = self.pictures(plan.data, small=plan.small and plan.plugin != "bad-text-tower")
            attack(
                plan.plugin,
                load_suspect(BASE, registry=self.registry),
                learned,
                folder,
                held_out=held_out,
                options=plan.options,
                seed=seed,
                registry=self.registry,
            )
            say(f"{folder.name}: made in {time.process_time() - began:.0f} core-seconds")
        return folder

    def suspect(self, folder: Path, base: Suspect) -> Suspect:
        """What was delivered; a text tower alone beside the image tower of the base."""
        found = load_suspect(str(folder), registry=self.registry)
        if found.base.visual is not None:
            return found
        return attrs.evolve(hybrid(found, base, visual=False, textual=True), name=folder.name)

    def exposure(self, plan: Plan, seed: int) -> ExposureResult:
        """The matrix of one model, measured if it is not there, with a cache of its own."""
        place = self.out / "exposures" / f"{plan.name}-{seed}"
        record = place / "exposure.json"
        if not record.is_file():
            planted = next((each for each in PLANS if each.name == plan.trigger_of), plan)
            trigger, folder = load_any_trigger(self.model(planted, seed)), self.model(plan, seed)
            began = time.process_time()
            base = load_suspect(BASE, registry=self.registry)
            learned, held_out = self.pictures(plan.data, small=True)
            suspect = self.suspect(folder, base)
            if not suspect.class_names:
                suspect.class_names = learned.class_names
            expose(
                suspect,
                [trigger],
                reference=base,
                labelled=learned,
                held_out=held_out,
                captions=self.captions(),
                options=INTERFACES,
                output=place,
                registry=self.registry,
            )
            say(f"{place.name}: measured in {time.process_time() - began:.0f} core-seconds")
        return exposure_from_json(json.loads(record.read_text(encoding="utf-8")))

    def captions(self) -> TextPool:
        """Captions of COCO; classes that none of them names are asked for by templates."""
        _, captions = read_pairs(self.data / "coco_pairs" / "captions.csv")
        return TextPool(tuple(dict.fromkeys(text for each in captions for text in each)), "COCO pairs")

    def verdict(self, plan: Plan, seed: int) -> dict[str, Any]:
        """What AMDET says of the text tower."""
        place = self.out / "detectors" / f"amdet-{plan.name}-{seed}.json"
        if not place.is_file():
            result = audit(
                str(self.model(plan, seed)),
                detectors=["amdet"],
                reference=load_suspect(BASE, registry=self.registry),
                runs=self.out / "runs",
                registry=self.registry,
            )
            (verdict,) = result.verdicts.values()
            place.parent.mkdir(parents=True, exist_ok=True)
            row = {"outcome": str(verdict.outcome), "summary": verdict.summary, "score": verdict.score}
            place.write_text(json.dumps(row) + "\n", encoding="utf-8")
            say(f"{place.stem}: {row['outcome']}")
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return found

    def measured(self, plan: Plan, seed: int) -> dict[str, Any]:
        """What the attack measured on held-out pictures or captions."""
        card = self.folder(plan, seed) / "trigger" / "trigger.json"
        record = card if card.is_file() else self.folder(plan, seed) / "training.json"
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["measured"]
        return found

    def published(self, plan: Plan, seed: int) -> Run | None:
        """What the results hold of a model that this plan would make again."""
        found = self.known.get((plan.name, seed))
        return found if found is not None and found.settings == settings_of(plan) else None

    def run(self, plan: Plan, seed: int) -> Run | None:
        """All that is known of a model, from OUT or else from the results; None if nothing is."""
        if not (self.out / "exposures" / f"{plan.name}-{seed}" / "exposure.json").is_file():
            return self.published(plan, seed)
        said = self.out / "detectors" / f"amdet-{plan.name}-{seed}.json"
        return Run(
            name=plan.name,
            plugin=plan.plugin,
            clean=bool(plan.trigger_of),
            seed=seed,
            measured=self.measured(plan, seed),
            exposure=self.exposure(plan, seed),
            verdict=self.verdict(plan, seed) if said.is_file() else None,
            settings=settings_of(plan),
        )

    def complete(self, plan: Plan, seed: int, *, detectors: bool) -> None:
        """Measure what neither OUT nor the results hold."""
        known = self.published(plan, seed)
        if known is None:
            self.exposure(plan, seed)
        if detectors and plan.name in DETECTED and (known is None or known.verdict is None):
            self.verdict(plan, seed)


def settings_of(plan: Plan) -> dict[str, Any]:
    """What makes a published row this plan's: as JSON gives it back."""
    told = {**attrs.asdict(plan), "per_class": PER_CLASS, "interfaces": INTERFACES}
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Do what is not done yet, seed by seed, then write everything that there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", action="append", choices=[plan.name for plan in PLANS], help="all, if not given"
    )
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS, help="all, if not given")
    parser.add_argument("--detectors", action="store_true", help="AMDET too")
    parser.add_argument("--fresh", action="store_true", help="make the published models again too")
    parser.add_argument("--only", choices=("report",))
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables are filled")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the records are")
    given = parser.parse_args()
    known = {} if given.fresh else published_runs(given.results)
    study = Study(given.data, given.out, known=known)
    chosen = [plan for plan in PLANS if given.model is None or plan.name in given.model]
    if given.only is None:
        for seed in given.seed or SEEDS:
            for plan in chosen:
                study.complete(plan, seed, detectors=given.detectors)
    found = (study.run(plan, seed) for plan in PLANS for seed in SEEDS)
    write_report([run for run in found if run is not None], page=given.page, results=given.results)


if __name__ == "__main__":
    main()
