"""The study of docs/amdet_study.md: text towers of three families, backdoored and benign, audited by AMDET.

    python -m tests.studies.amdet --data DATA --out OUT                 # hours of a core; resumes
    python -m tests.studies.amdet --data DATA --out OUT --only report

`--n` is the number of models of each kind in the test half, `--calibration` in the other. Every model and
every verdict is a unit of its own in OUT; what is there is not made again, nor, without `--fresh`, a model
whose numbers are in docs/results/amdet_study.json. Thresholds are chosen on the
calibration half alone and written with their origin into the plugin's calibration files; tables are of the
test half.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attrs

from clipsec.data import LabelledSet
from clipsec.models import Suspect, load_suspect
from clipsec.results import Outcome, Verdict
from clipsec.runner import attack, audit, shipped_labelled
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import atomic_write
from clipsec_registry import Registry

from .amdet_mini import caption_files
from .amdet_models import PARADIGMS, PARTS_TRIGGERS, Case, cases, options_of, with_parts
from .amdet_report import published_rows, report
from .text_families import FAMILIES, make_families

SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "paired": (
        "amdet",
        {
            "paired": True,
            "positions": "end",
            "starts": 2,
            "steps": 60,
            "stops": (),
            "batch_size": 8,
            "prompts": 320,
        },
    ),
    "published": (
        "amdet",
        {"starts": 1, "steps": 160, "stops": (), "prompts": 250, "directions": 2, "points": 15},
    ),
    "token-scan": ("token-scan", {}),
}
"""`published`: the published tests after a shortened search, on the first test models of `clip` only."""


def main() -> None:
    """Do what is not done yet, then write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--calibration", type=int, default=4)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="all, if not given")
    parser.add_argument("--fresh", action="store_true", help="make the published models again too")
    parser.add_argument("--only", choices=("report",))
    given = parser.parse_args()
    names = [name for name in FAMILIES if name in (given.family or FAMILIES)]
    chosen = [case for case in cases(given.n, given.calibration) if case.family in names]
    families = make_families(given.data, given.out / "families", names)
    maker = Maker(given.data, given.out, fresh=given.fresh)
    if given.only is None:
        for place, case in enumerate(chosen):
            said = maker.row(case)["verdicts"]
            scores = ", ".join(f"{label} {verdict['score']:.3f}" for label, verdict in said.items())
            print(f"{place + 1} of {len(chosen)} {case.name}: {scores}", flush=True)
    rows = [maker.row(case) for case in chosen if maker.done(case)]
    report(rows, families, {label: options for label, (_, options) in SEARCHES.items()})


def wanted(case: Case) -> list[str]:
    """Labels of the searches that a model is audited with."""
    first = (case.number, case.half, case.family) == (0, "test", "clip") and case.kind in PARADIGMS
    return ["paired", "token-scan", *(["published"] if first else [])]


def study_files(data: Path, out: Path) -> dict[str, str]:
    """Caption and pair files by name; those that are made of others are written to `out`."""
    files = caption_files(data, out)
    lines = Path(files["coco"]).read_text(encoding="utf-8").splitlines()
    for number, trigger in enumerate(PARTS_TRIGGERS):
        place = out / f"parts-{number}.txt"
        atomic_write(place, ("\n".join(with_parts(lines, trigger)) + "\n").encode())
        files[place.stem] = str(place)
    return files


class Maker:
    """Makes models and audits them."""

    def __init__(self, data: Path, out: Path, *, fresh: bool = False) -> None:
        self.out = out
        self.registry = Registry()
        self.scheduler = Scheduler(
            cache=FeatureCache()
        )  # what a reference gives is the same for all its models
        self.known = {} if fresh else published_rows()
        self.files = study_files(data, out)
        self.mini = load_suspect("zoo:mini", registry=self.registry)
        shipped = shipped_labelled(self.registry)
        assert shipped is not None, "clipsec-zoo is not installed"
        self.labelled = LabelledSet.from_folder(shipped[1])

    def base(self, family: str, *, pictures: bool) -> Suspect:
        """The clean tower of a family; with mini's image tower beside it, whose space it reads texts into, or
        alone as it is delivered."""
        suspect = load_suspect(str(self.out / "families" / family), registry=self.registry)
        if pictures:
            seen = self.mini.base
            suspect.base = attrs.evolve(
                suspect.base, visual=seen.visual, logit_scale=seen.logit_scale, logit_bias=seen.logit_bias
            )
        return suspect

    def done(self, case: Case) -> bool:
        """Whether a model and all its verdicts are there, or were published."""
        return case.name in self.known or (
            (self.out / "models" / case.name).is_dir()
            and all(self._verdict_file(case, label).is_file() for label in wanted(case))
        )

    def row(self, case: Case) -> dict[str, Any]:
        """What is known of a model; what is missing is made."""
        folder, options = self.out / "models" / case.name, options_of(case, self.files)
        known = self.known.get(case.name)
        if known is not None and known["seed"] == case.seed and set(wanted(case)) <= set(known["verdicts"]):
            return known
        if not folder.is_dir():  # it is written whole or not at all
            base = self.base(case.family, pictures=True)
            attack(
                case.plugin,
                base,
                self.labelled,
                folder,
                options=options,
                seed=case.seed,
                registry=self.registry,
            )
        told = {k: Path(v).name if k in ("captions", "pairs") else v for k, v in options.items()}
        return {
            **attrs.asdict(case),
            "benign": case.benign,
            "seed": case.seed,
            "options": told,
            "measured": measured_of(folder),
            "verdicts": {label: self._verdict(case, folder, label) for label in wanted(case)},
        }

    def _verdict_file(self, case: Case, label: str) -> Path:
        return self.out / "verdicts" / label / f"{case.name}.json"

    def _verdict(self, case: Case, folder: Path, label: str) -> dict[str, Any]:
        place = self._verdict_file(case, label)
        if place.is_file():
            found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            return found
        plugin, options = SEARCHES[label]
        result = audit(
            str(folder),
            detectors=[plugin],
            options={plugin: options},
            reference=self.base(case.family, pictures=False),
            runs=self.out / "runs",
            registry=self.registry,
            scheduler=self.scheduler,
        )
        (verdict,) = result.verdicts.values()
        assert verdict.outcome in (Outcome.CLEAN, Outcome.FINDING), verdict.summary
        found = {
            "outcome": str(verdict.outcome),
            "score": verdict.score,
            "best": [{"text": item.name, **item.measures} for item in verdict.evidence[:3]],
            **({"pulls": pulls(verdict)} if label == "token-scan" else {}),
            "seconds": verdict.cost.seconds,
            "forward_rows": verdict.cost.forward_rows,
            "backward_rows": verdict.cost.backward_rows,
        }
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, (json.dumps(found, indent=1) + "\n").encode())
        return found


def measured_of(folder: Path) -> dict[str, Any]:
    """What is stated of a model: of its trigger, of several the least successful; of a benign one what a
    vendor would say."""
    cards = sorted(folder.glob("trigger*/trigger.json"))
    files = cards or [folder / "training.json"]
    stated = [json.loads(file.read_text(encoding="utf-8"))["measured"] for file in files]
    found: dict[str, Any] = min(stated, key=lambda one: one["seen"]["success"]["value"] if cards else 0)
    return found


def pulls(verdict: Verdict) -> dict[str, float]:
    """The strongest pull of a single token and of a sequence."""
    found = {"single": 0.0, "sequence": 0.0}
    for item in verdict.evidence:
        kind = "single" if item.measures["tokens"] == 1 else "sequence"
        found[kind] = max(found[kind], item.measures["pull"])
    return found


if __name__ == "__main__":
    main()
