"""What other studies published of the models of docs/who_sees_what.md, same settings and seeds, and what
follows from what a model is."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clipsec.protocols import Need
from clipsec_registry import Registry

from .who_detectors import DETECTORS
from .who_models import IMAGE, LONE, PROMPTS, SCENES, TEXT, FromCase, FromSuite, Model, rates

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
INSPECTOR, TOWERS = "docs/clip_inspector_study.md", "docs/amdet_study.md"
SEARCHES = {"amdet-paired": "paired", "token-scan": "token-scan"}
UNCHANGED = {
    PROMPTS: ("amdet", "decree", "token-scan"),
    IMAGE: ("amdet", "token-scan"),
    TEXT: ("decree",),
}
"""Detectors that compare one tower with the reference's, and pass it at once when both are the same: by what
was changed instead."""


def facts_elsewhere(model: Model, number: int) -> dict[str, Any] | None:
    """Targets, trigger words and rates, as `facts` has them."""
    if isinstance(model.recipe, FromSuite):
        row = _models().get((model.recipe.label, model.seed(number)))
        if row is None:
            return None
        names = {"success": "success", "base_success": "on_base", "accuracy": "accuracy"}
        found = {ours: float(row[theirs]) for theirs, ours in names.items() if row[theirs]}
        return {"targets": [each for each in row["targets"].split("; ") if each], "words": []} | {
            "measured": found
        }
    if isinstance(model.recipe, FromCase):
        row = _tower(model, number)
        if row is None:
            return None
        options, told = row["options"], rates([row["measured"]])
        return {
            "targets": list(options.get("targets", [options["target"]] if "target" in options else [])),
            "words": list(options.get("triggers", [options["trigger"]] if "trigger" in options else [])),
            "measured": told,
        }
    return None


def verdict_elsewhere(model: Model, number: int, label: str) -> dict[str, Any] | None:
    """What a detector with the same settings said."""
    if isinstance(model.recipe, FromSuite):
        key = (model.recipe.label, model.seed(number))
        found = (_inspected().get((*key, *study)) for study in DETECTORS[label].studies)
        return next((one for one in found if one), None)
    if not isinstance(model.recipe, FromCase) or label not in SEARCHES:
        return None
    row = _tower(model, number)
    said = None if row is None else row["verdicts"].get(SEARCHES[label])
    return None if said is None else _judged(said, label)


def implied(model: Model, label: str) -> dict[str, Any] | None:
    """What follows without a run: the detector needs what is not delivered, or reads a tower that was left
    alone."""
    plugin = DETECTORS[label].plugin
    missing = needs(plugin) - {Need.TEXT_TOWER} if model.place == LONE else ()
    if missing:
        summary = f"needs {', '.join(sorted(missing))}, which this run does not offer"
        return {"outcome": "skipped", "summary": summary, "from": "what it needs"}
    if plugin in UNCHANGED.get(model.place, ()):
        same = {"equals_reference": 1.0}
        return {"outcome": "clean", "measures": same, "from": "its tower is the reference's"}
    return None


@cache
def needs(plugin: str) -> frozenset[Need]:
    """What a detector cannot run without, pictures and labels left out: everybody can bring them."""
    registry = Registry()
    found: frozenset[Need] = registry.load(registry.find("detectors", plugin), strict=True).needs
    return found - {Need.IMAGE_POOL, Need.LABELS}


def _judged(said: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A verdict by the thresholds that the study chose, not those that were shipped when it ran."""
    limits = _amdet()["thresholds"]
    score, limit = said["score"], limits["paired"]["clip"]
    best = said["best"][0]["text"]
    if label == "token-scan":
        score = max(said["pulls"][kind] / unit for kind, unit in limits["token-scan"].items())
        limit = 1.0
    return {
        "outcome": "finding" if score > limit else "clean",
        "target": None,
        "best": best,
        "score": score,
        "threshold": limit,
        "seconds": said["seconds"],
        "from": TOWERS,
    }


def _tower(model: Model, number: int) -> dict[str, Any] | None:
    case = model.case(number)
    key = {name: getattr(case, name) for name in ("family", "half", "kind", "plugin", "number")}
    found = (row for row in _amdet()["models"] if all(row[name] == value for name, value in key.items()))
    return next(found, None)


@cache
def _amdet() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "amdet_study.json").read_text(encoding="utf-8"))
    return found


@cache
def _models() -> dict[tuple[str, int], dict[str, str]]:
    found = {}
    for folder in ("beyond", "mini"):
        for row in _table(folder, "models"):
            if row["dataset"] == SCENES and row["learner"] == "cocoop" and row["state"] == "built":
                found[row["attack"], int(row["seed"])] = row
    return found


@cache
def _inspected() -> dict[tuple[str, int, str, str], dict[str, Any]]:
    found = {}
    for folder in ("mini", "beyond", "detectors"):
        for row in _table(folder, "verdicts"):
            # The suite has models of CoOp under the same name; their folders say so.
            if row["dataset"] == SCENES and row["state"] == "answered" and "-coop-" not in row["model"]:
                found[row["attack"], int(row["seed"]), folder, row["detector"]] = {
                    "outcome": row["outcome"],
                    "target": row["flagged"].split("; ")[0] or None,
                    "score": float(row["score"]),
                    "threshold": float(row["threshold"]),
                    "seconds": float(row["tower_seconds"] or row["seconds"]),
                    "from": INSPECTOR,
                }
    return found


def _table(folder: str, name: str) -> list[dict[str, str]]:
    place = RESULTS / "clip_inspector" / folder / f"{name}.csv"
    with place.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
