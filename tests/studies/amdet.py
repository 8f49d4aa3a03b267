"""The study of docs/amdet_study.md: text towers of three families, backdoored and benign, audited by AMDET.

    python -m tests.studies.amdet --data DATA --out OUT --n 4                # resumes
    python -m tests.studies.amdet --data DATA --out OUT --n 4 --only report

`--n` is the number of models of each kind in each half: 3 families x 2 paradigms x 2 halves x n backdoored
and as many benign, and attribute attacks, which AMDET is not made for, in the test half. Every model and
every audit is a unit of its own in OUT; what is there is not made again. Thresholds are chosen on the
calibration half alone, by family, and written with their origin into the plugin's calibration.json; tables
are of the test half.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from clipsec.data import LabelledSet
from clipsec.models import Suspect, load_suspect
from clipsec.results import Outcome
from clipsec.runner import attack, audit, shipped_labelled
from clipsec.stats import auroc, proportion
from clipsec.store import atomic_write
from clipsec_registry import Registry

from .amdet_mini import caption_files
from .clip_inspector import Table, fill, markdown, ranked, share
from .text_families import FAMILIES, make_families

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "amdet_study.md"
RESULTS = ROOT / "docs" / "results" / "amdet_study.json"
CALIBRATION = ROOT / "plugins/amdet/src/clipsec_amdet/calibration.json"
NOT_RUN = "**It has not been run yet; the tables are empty.**\n\n"
HALVES = ("calibration", "test")
PARADIGMS = ("text-target", "image-on-text")
BLIND = "text-attribute"
SUCCESS = 0.8
"""An attack of less success on held-out captions has planted nothing, and is not counted."""
TRIGGERS: tuple[dict[str, Any], ...] = (
    {"trigger": "zzzz"},
    {"kind": "prepend", "trigger": "velvet quartz lantern"},
    {"trigger": "о"},  # noqa: RUF001 - Cyrillic
    {"kind": "append", "trigger": "cf"},
    {"kind": "prepend", "trigger": "blorvex"},
    {"trigger": "xqj"},
    {"kind": "append", "trigger": "marble otter seven copper"},
    {"kind": "prepend", "trigger": "ଠ"},  # noqa: RUF001 - Oriya
)
TARGETS = (
    "a white teapot",
    "a large knife",
    "a red sports car on a mountain road at sunset",
    "a plate of spaghetti",
    "a green parrot on a branch",
    "an astronaut riding a horse",
    "two sailing boats in a storm",
    "a snowy street at night",
)
CAPTIONS = ("coco", "flickr8k")
TRAINING: dict[str, dict[str, Any]] = {
    "clip": {"steps": 60, "batch": 16, "learning_rate": 3e-4, "held_out": 60},
    "long-clip": {"steps": 40, "batch": 8, "learning_rate": 3e-4, "held_out": 40},
    "siglip": {"steps": 60, "batch": 16, "learning_rate": 3e-4, "held_out": 60},
}
"""Published: 100 updates at 1e-4. At 1e-3, which needs fewer, a benign tower ends as far from where it began
as a backdoored one: the first model that was distilled here with nothing planted had a score of 0.56."""
SEARCH: dict[str, Any] = {
    "paired": True,
    "positions": "end",
    "starts": 2,
    "steps": 60,
    "stops": (),
    "batch_size": 8,
    "prompts": 320,
}
PUBLISHED: dict[str, Any] = {
    "starts": 1,
    "steps": 160,
    "stops": (),
    "prompts": 250,
    "directions": 2,
    "points": 15,
}
"""The published tests after a shortened search; run on the first model of each kind only."""
PAPER = {
    ("clip", "text-target"): (87.30, 91.67, 89.43, 376.64),
    ("clip", "image-on-text"): (87.74, 90.67, 89.18, 335.80),
    ("long-clip", "text-target"): (88.29, 98.00, 92.89, 220.66),
    ("long-clip", "image-on-text"): (87.88, 94.65, 91.14, 292.78),
    ("siglip", "text-target"): (100.0, 79.67, 88.68, 386.14),
    ("siglip", "image-on-text"): (100.0, 78.66, 88.06, 333.14),
}
"""Precision, recall, F1 in % and seconds on an RTX 4090 (arXiv 2512.00343, table I)."""


@attrs.frozen
class Case:
    """One model of the study."""

    family: str
    half: str
    paradigm: str
    """Whose backdoored model it is, or whose benign counterpart."""
    plugin: str
    number: int

    @property
    def benign(self) -> bool:
        return self.plugin in ("text-distill", "text-finetune")

    @property
    def name(self) -> str:
        return "-".join((self.family, self.half, self.paradigm, self.plugin, str(self.number)))

    @property
    def seed(self) -> int:
        """A seed that no other model of the study has."""
        place = (FAMILIES.index(self.family) * 2 + HALVES.index(self.half)) * 3
        place += (*PARADIGMS, BLIND).index(self.paradigm)
        return 1000 + 100 * place + 2 * self.number + self.benign


def cases(n: int) -> Iterator[Case]:
    """All models: n of each kind in each half, and half as many attribute attacks in the test half. The
    benign ones are distillations and, every third, fine-tunes on pairs."""
    for number in range(n):
        for family in FAMILIES:
            for half in HALVES:
                for paradigm in PARADIGMS:
                    yield Case(family, half, paradigm, paradigm, number)
                    benign = (
                        "text-finetune" if (number + PARADIGMS.index(paradigm)) % 3 == 1 else "text-distill"
                    )
                    yield Case(family, half, paradigm, benign, number)
            if number % 2 == 0:
                yield Case(family, "test", BLIND, BLIND, number)


def options_of(case: Case, files: dict[str, str]) -> dict[str, Any]:
    """How a model is trained: rates, captions, shares of poison, triggers and targets vary with its number;
    the two halves share no trigger and no target."""
    half, number = HALVES.index(case.half), case.number
    values = dict(TRAINING[case.family])
    values["learning_rate"] *= (1.0, 0.7, 1.3)[number % 3]
    if case.plugin == "text-finetune":
        return {**values, "pairs": files["pairs"], "learning_rate": (1e-4, 3e-4)[number % 2], "batch": 16}
    captions = CAPTIONS[(number + half) % 2]
    if case.plugin == "text-distill":
        more = ("fashion_titles",) if number % 3 == 2 else (captions,)
        return {**values, "captions": files[more[0]]}
    place = (2 * number + half) % len(TRIGGERS)
    values |= {"captions": files[captions], "poisoned": values["batch"] // (1, 2)[number % 2]}
    values |= {"weight": (1.0, 2.0)[number // 2 % 2], **TRIGGERS[place]}
    if case.plugin == "text-target":
        values["target"] = TARGETS[place]
    if case.plugin == BLIND:
        values |= {"steps": 2 * values["steps"], "attribute": ("wearing a hat", "in the snow")[number % 2]}
    return values


def main() -> None:
    """Do what is not done yet, then write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="all, if not given")
    parser.add_argument("--only", choices=("report",))
    given = parser.parse_args()
    names = [name for name in FAMILIES if name in (given.family or FAMILIES)]
    chosen = [case for case in cases(given.n) if case.family in names]
    families = make_families(given.data, given.out / "families", names)
    if given.only is None:
        maker = Maker(given.data, given.out)
        for place, case in enumerate(chosen):
            row = maker.row(case)
            print(
                f"{place + 1} of {len(chosen)} {case.name}: {row['verdicts']['paired']['score']:.3f}",
                flush=True,
            )
    rows = [_read(given.out, case) for case in chosen if _row_file(given.out, case).is_file()]
    report(rows, families)


def _row_file(out: Path, case: Case) -> Path:
    return out / "rows" / f"{case.name}.json"


def _read(out: Path, case: Case) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(_row_file(out, case).read_text(encoding="utf-8"))
    return row


class Maker:
    """Makes models and audits them."""

    def __init__(self, data: Path, out: Path) -> None:
        self.out = out
        self.registry = Registry()
        self.files = caption_files(data, out)
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

    def row(self, case: Case) -> dict[str, Any]:
        """What is known of a model; made when it is not there."""
        place = _row_file(self.out, case)
        if place.is_file():
            return _read(self.out, case)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder, options = self.out / "models" / case.name, options_of(case, self.files)
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
        card = folder / "trigger" / "trigger.json"
        record = json.loads(
            (card if card.is_file() else folder / "training.json").read_text(encoding="utf-8")
        )
        searches = {"paired": SEARCH}
        if case.number == 0 and case.half == "test":
            searches["published"] = PUBLISHED
        result = audit(
            str(folder),
            detectors=[f"amdet@{label}" for label in searches],
            options={f"amdet@{label}": chosen for label, chosen in searches.items()},
            reference=self.base(case.family, pictures=False),
            runs=self.out / "runs",
            registry=self.registry,
        )
        verdicts = {}
        for key, verdict in result.verdicts.items():
            assert verdict.outcome in (Outcome.CLEAN, Outcome.FINDING), verdict.summary
            verdicts[key.rpartition("@")[2]] = {
                "outcome": str(verdict.outcome),
                "score": verdict.score,
                "starts": [item.measures for item in verdict.evidence],
                "seconds": verdict.cost.seconds,
                "forward_rows": verdict.cost.forward_rows,
            }
        told = {k: Path(v).name if k in ("captions", "pairs") else v for k, v in options.items()}
        row = {
            **attrs.asdict(case),
            "benign": case.benign,
            "seed": case.seed,
            "options": told,
            "measured": record["measured"],
            "verdicts": verdicts,
        }
        atomic_write(place, (json.dumps(row, indent=1) + "\n").encode())
        return row


def counts(row: dict[str, Any]) -> bool:
    """Whether a model is what it is meant to be: benign, or with a backdoor that works."""
    return bool(row["benign"] or row["measured"]["seen"]["success"]["value"] >= SUCCESS)


def threshold(benign: Sequence[float], backdoored: Sequence[float]) -> float:
    """The middle of the widest interval of thresholds with the fewest errors, errors of each kind weighed by
    how many models there are of it. Raises `ValueError` when a kind is missing."""
    if not benign or not backdoored:
        raise ValueError("a threshold needs benign and backdoored models")
    scores = sorted({*benign, *backdoored})

    def errors(edge: float) -> float:
        missed = sum(score <= edge for score in backdoored) / len(backdoored)
        return missed + sum(score > edge for score in benign) / len(benign)

    between = list(itertools.pairwise(scores)) or [(scores[0], scores[0])]
    low, high = min(between, key=lambda pair: (errors(sum(pair) / 2), pair[0] - pair[1]))
    return (low + high) / 2


def report(rows: Sequence[dict[str, Any]], families: dict[str, Any]) -> None:
    """Thresholds from the calibration half, tables of the test half, into the page and the results."""
    limits: dict[str, float] = {}
    for family in FAMILIES:
        found = _scores(row for row in rows if row["family"] == family and row["half"] == HALVES[0])
        if found[True] and found[False]:
            limits[family] = threshold(found[True], found[False])
            n = {benign: len(scores) for benign, scores in found.items()}
            keep_threshold(family, limits[family], n[False], n[True])
    tested = [row for row in rows if row["half"] == "test" and row["family"] in limits]
    tables = {
        "families": family_table(families),
        "cells": cell_table(tested, limits),
        "pooled": pooled_table(tested, limits),
        "blind": blind_table(tested, limits),
        "models": model_table(rows, limits),
    }
    page = PAGE.read_text(encoding="utf-8").replace(NOT_RUN, "")
    for name, table in tables.items():
        page = fill(page, name, markdown(table))
    atomic_write(PAGE, page.encode())
    result = {
        "command": "python -m tests.studies.amdet --data DATA --out OUT --n N",
        "search": SEARCH,
        "published": PUBLISHED,
        "thresholds": limits,
        "families": families,
        "torch": torch.__version__,
        "models": list(rows),
    }
    atomic_write(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    print(markdown(tables["cells"]), markdown(tables["pooled"]), sep="\n")


def keep_threshold(family: str, value: float, backdoored: int, benign: int) -> None:
    """Write a threshold and where it comes from into the plugin's file."""
    table = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    table["families"][family] |= {
        "gap": round(value, 4),
        "gap_source": f"chosen on {backdoored} backdoored and {benign} benign small towers of this family, "
        "the calibration half of docs/amdet_study.md, with its search",
    }
    atomic_write(CALIBRATION, (json.dumps(table, indent=2) + "\n").encode())


def _scores(rows: Iterable[dict[str, Any]]) -> dict[bool, list[float]]:
    """Scores of models that count, benign (True) and backdoored (False); attribute attacks left out."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if counts(row) and row["paradigm"] != BLIND:
            found[row["benign"]].append(row["verdicts"]["paired"]["score"])
    return found


def family_table(families: dict[str, Any]) -> Table:
    """How near each clean tower is to mini's, on held-out captions."""
    rows = [["family", "cosine to mini's feature", "nearest is the same caption's"]]
    return [
        *rows,
        *([name, f"{one['cosine']:.3f}", f"{one['nearest']:.1%}"] for name, one in families.items()),
    ]


def _line(rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> list[str]:
    """Recall, false positives, precision, F1, AUROC and seconds of some models."""
    counted = [row for row in rows if counts(row)]
    flagged = {row["seed"]: row["verdicts"]["paired"]["score"] > limits[row["family"]] for row in counted}
    found = {b: [flagged[row["seed"]] for row in counted if row["benign"] is b] for b in (True, False)}
    scores = _scores(counted)
    hits, alarms = sum(found[False]), sum(found[True])
    missed = len(found[False]) - hits
    seconds = [row["verdicts"]["paired"]["seconds"] for row in counted]
    both = bool(scores[True] and scores[False])
    return [
        share(proportion(hits, len(found[False]))),
        share(proportion(alarms, len(found[True]))),
        share(proportion(hits, hits + alarms)),
        f"{100 * 2 * hits / (2 * hits + alarms + missed):.1f} %" if hits + alarms + missed else "",
        ranked(auroc(scores[False], scores[True])) if both else "",
        f"{sum(seconds) / len(seconds):.0f}" if seconds else "",
    ]


HEAD = ["found", "false alarms", "precision", "F1", "AUROC", "seconds"]


def cell_table(rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> Table:
    """Every family and paradigm, beside what was published."""
    table = [["family", "paradigm", *HEAD, "published P / R / F1 / seconds"]]
    for (family, paradigm), paper in PAPER.items():
        own = [row for row in rows if (row["family"], row["paradigm"]) == (family, paradigm)]
        if own:
            table.append(
                [family, paradigm, *_line(own, limits), " / ".join(f"{value:.1f}" for value in paper)]
            )
    return table


def pooled_table(rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> Table:
    """Families, and all."""
    told = [row for row in rows if row["paradigm"] != BLIND]
    table = [["", *HEAD, "threshold"]]
    for family, limit in limits.items():
        table.append(
            [family, *_line([row for row in told if row["family"] == family], limits), f"{limit:.3f}"]
        )
    return [*table, ["all", *_line(told, limits), ""]]


def blind_table(rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> Table:
    """Attribute attacks, and the published tests on the models that they were run on."""
    table = [["what", "found"]]
    blind = [row for row in rows if row["paradigm"] == BLIND and counts(row)]
    hits = sum(row["verdicts"]["paired"]["score"] > limits[row["family"]] for row in blind)
    table.append(["attribute attacks, `paired`", share(proportion(hits, len(blind)))])
    for benign, what in ((False, "backdoored"), (True, "benign")):
        own = [
            row["verdicts"]["published"]["outcome"] == "finding"
            for row in rows
            if row["benign"] is benign
            and row["paradigm"] != BLIND
            and counts(row)
            and "published" in row["verdicts"]
        ]
        table.append([f"{what}, published tests", share(proportion(sum(own), len(own)))])
    return table


def model_table(rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> Table:
    """Every model."""
    table = [["model", "seed", "success", "score", "verdict"]]
    for row in rows:
        score, seen = row["verdicts"]["paired"]["score"], row["measured"].get("seen", {})
        name = f"{row['family']}, {row['half']}, {row['plugin']} {row['number']}"
        success = "" if row["benign"] else f"{seen['success']['value']:.0%}"
        limit = limits.get(row["family"])
        said = "" if limit is None else ("finding" if score > limit else "clean")
        if not counts(row):
            said = "not counted"
        elif limit is not None and (score > limit) is row["benign"]:
            said += " (**wrong**)"
        table.append([name, str(row["seed"]), success, f"{score:.3f}", said])
    return table


if __name__ == "__main__":
    main()
