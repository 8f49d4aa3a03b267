"""Build a list of clean and poisoned deliveries, to calibrate detectors on one half and test them on the
other.

    python tests/studies/make_models.py --base SPEC --data FOLDER --suite tests/studies/mini.toml --out FOLDER

The suite names, for each half, data sets, seeds and attacks; no data set and no seed is in both halves.
Every model lies in a folder whose name ends in a digest of all that decides it, so that a killed or
extended build goes on where it stopped and a changed setting builds a new model. `models.json` lists what
is there, also from other suites, with accuracy and success rate, and whether a poisoned model counts: its
success on Seen is above `min_success` and its accuracy within `max_loss` of the clean model's, same data
and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipsec import runner
from clipsec.data import LabelledSet
from clipsec.errors import ClipsecError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.store import atomic_write, content_key


def wanted(suite: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The models of a suite: half, data set, attack, seed and settings of each."""
    for half, plan in suite["halves"].items():
        for dataset in plan["datasets"]:
            for seed in plan["seeds"]:
                for attack in plan["attacks"]:
                    settings = {
                        **suite["settings"],
                        **suite.get("datasets", {}).get(dataset, {}),
                        **suite.get("attacks", {}).get(attack, {}),
                    }
                    yield {
                        "half": half,
                        "dataset": dataset,
                        "attack": attack,
                        "seed": seed,
                        "settings": settings,
                    }


def check_halves(suite: dict[str, Any]) -> None:
    """No data set and no seed may be used in two halves. Raises `UsageError`."""
    for kind in ("datasets", "seeds"):
        used = [value for plan in suite["halves"].values() for value in dict.fromkeys(plan[kind])]
        shared = {value for value in used if used.count(value) > 1}
        if shared:
            raise UsageError(
                f"{kind} in more than one half: {sorted(map(str, shared))}",
                remedy="What thresholds are chosen on must not be what they are tested on.",
            )


def folder_of(out: Path, model: dict[str, Any], base: Suspect, data_digest: str) -> Path:
    """Where a model lies."""
    key = content_key(
        base=base.base.digest,
        data=data_digest,
        version=version("clipsec-baselines"),
        **{name: model[name] for name in ("dataset", "attack", "seed", "settings")},
    )
    return out / model["half"] / f"{model['dataset']}-{model['attack']}-{model['seed']}-{key[:10]}"


def describe(folder: Path, out: Path, model: dict[str, Any]) -> dict[str, Any]:
    """One line of `models.json`, from the files of a delivery."""
    line = {**model, "folder": folder.relative_to(out).as_posix()}
    card = folder / "trigger" / "trigger.json"
    record = json.loads((card if card.is_file() else folder / "training.json").read_text())
    line["target"] = record.get("target_name")
    for part, rates in record["measured"].items():
        for name, rate in rates.items():
            line[f"{part}_{name}"] = rate["value"]
            line[f"{part}_{name}_n"] = rate["n"]
    return line


def earlier(out: Path) -> list[dict[str, Any]]:
    """What other suites built into the same folder."""
    listing = out / "models.json"
    return json.loads(listing.read_text()) if listing.is_file() else []


def judge(lines: list[dict[str, Any]], suite: dict[str, Any]) -> None:
    """Set `counts` of each model: whether it is what its label says."""
    clean = {
        (line["dataset"], line["seed"]): line["seen_accuracy"] for line in lines if line["attack"] == "none"
    }
    for line in lines:
        if line["attack"] == "none":
            line["counts"] = True
            continue
        reference = clean.get((line["dataset"], line["seed"]))
        line["counts"] = line["seen_success"] > suite["min_success"] and (
            reference is not None and line["seen_accuracy"] >= reference - suite["max_loss"]
        )


def main() -> None:
    """Build what is missing, then write `models.json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True)
    parser.add_argument("--base-name")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--suite", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--half", help="build this half only")
    arguments = parser.parse_args()
    suite = tomllib.loads(arguments.suite.read_text(encoding="utf-8"))
    check_halves(suite)
    base = load_suspect(arguments.base)
    base.base_name = arguments.base_name or arguments.base
    lines, digests = earlier(arguments.out), {}
    models = [model for model in wanted(suite) if arguments.half in (None, model["half"])]
    for position, model in enumerate(models, 1):
        data = arguments.data / model["dataset"]
        if data not in digests:
            parts = [LabelledSet.from_folder(data / part).digest for part in ("train", "test")]
            digests[data] = "/".join(parts)
        folder = folder_of(arguments.out, model, base, digests[data])
        started = time.monotonic()
        if not folder.is_dir():
            try:
                labelled, held_out = runner.read_pictures_to_attack(data)
                runner.attack(
                    model["attack"],
                    base,
                    labelled,
                    folder,
                    held_out=held_out,
                    options=model["settings"],
                    seed=model["seed"],
                )
            except ClipsecError as error:
                print(f"{folder.name}: {error.message} {error.remedy}", flush=True)
                continue
        line = describe(folder, arguments.out, model)
        lines = [other for other in lines if other["folder"] != line["folder"]] + [line]
        judge(lines, suite)
        atomic_write(arguments.out / "models.json", (json.dumps(lines, indent=1) + os.linesep).encode())
        print(f"{position}/{len(models)} {folder.name}: {_words(line)}, {time.monotonic() - started:.0f} s")


def _words(line: dict[str, Any]) -> str:
    success = f", success {line['seen_success']:.3f} on {line['target']}" if line["target"] else ""
    counts = "" if line["counts"] else ", does not count"
    return f"accuracy {line['seen_accuracy']:.3f}{success}{counts}"


if __name__ == "__main__":
    main()
