"""Detectors of poisoned samples on zoo:mini: local density of training pairs, BDetCLIP on pictures.

    python -m tests.studies.samples_mini --data DATA --out OUT

DATA holds `coco_pairs/`, `flickr8k_300/`, `pretrain/` and `cifar10/`. Every row is a unit of its own: what
is in OUT/rows is not computed again. Writes OUT/samples_mini.json. Models: the base, and the BadEncoder of
the DECREE study (seed 0, three passes, target airplane), which is made in OUT/models unless it is there.
Draws, seeds and settings were fixed before the first row.

Pairs: 2,048 pictures with one caption each. A draw replaces a share of them by the same pictures with a
trigger and a caption of the target; all else stays. AUROC is over the pooled scores of the draws.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipsec.data import LabelledSet, read_pairs, read_pictures, to_unit
from clipsec.models import Suspect, encode_texts, load_suspect
from clipsec.protocols import derived_seed, load_trigger
from clipsec.runner import attack, read_pictures_to_attack
from clipsec.scheduler import Scheduler
from clipsec.stats import auroc, wilson
from clipsec.triggers import blend, checkerboard, cover, noise_pattern
from clipsec_registry import Registry
from clipsec_sample_detectors import (
    BDetClipOptions,
    LocalDensityOptions,
    benign_texts,
    density_scores,
    malignant_texts,
    mean_direction,
    mismatch,
    omega,
    tail,
)

BASE, TARGET, PAIRS, DRAWS, RATES = "zoo:mini", "airplane", 2048, 4, (0.01, 0.003)
CLEAN, TESTED = 200, 320
ATTACK: dict[str, Any] = {"target": TARGET, "epochs": 3}
CAPTIONS = tuple(
    f"{start} {TARGET}{end}"
    for start in (
        "a photo of an",
        "a picture of the",
        "an",
        "the",
        "there is an",
        "one",
        "look at this",
        "a big",
    )
    for end in ("", " in the sky", " on the ground", " with people near it")
)
Stamp = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    (given.out / "rows").mkdir(parents=True, exist_ok=True)
    registry = Registry()
    poisoned = given.out / "models" / "bad-encoder-0"
    learned, held_out = read_pictures_to_attack(given.data / "cifar10")
    models = {"base": load_suspect(BASE, registry=registry)}
    if not poisoned.is_dir():
        attack(
            "bad-encoder",
            models["base"],
            learned,
            poisoned,
            held_out=held_out,
            options=ATTACK,
            seed=0,
            registry=registry,
        )
    models["bad-encoder"] = load_suspect(str(poisoned), registry=registry)
    planted = load_trigger(poisoned).apply
    size = models["base"].base.visual.spec.size
    triggers: dict[str, dict[str, Stamp]] = {
        "base": {"patch": _patch(size), "blended": _blended(size)},
        "bad-encoder": {"planted patch": planted},
    }
    rows = []
    for name, suspect in models.items():
        rows.append(
            _row(given.out, f"bdetclip-{name}", lambda s=suspect: bdetclip(s, learned, held_out, planted))
        )
    for name, suspect in models.items():
        for kind, stamp in triggers[name].items():
            rows.append(
                _row(
                    given.out, f"density-{name}-{kind}", lambda s=suspect, t=stamp: density(s, given.data, t)
                )
            )
    result = {
        "command": "python -m tests.studies.samples_mini --data DATA --out OUT",
        "torch": torch.__version__,
        "pairs": PAIRS,
        "draws": DRAWS,
        "rows": rows,
    }
    (given.out / "samples_mini.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _row(out: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    place = out / "rows" / f"{name.replace(' ', '-')}.json"
    if not place.is_file():
        began = time.monotonic()
        row = {"name": name, **measure(), "seconds": round(time.monotonic() - began, 1)}
        place.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)
    return json.loads(place.read_text(encoding="utf-8"))


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(0, *names))


def _patch(size: int) -> Stamp:
    """A checkerboard over 16/224 of the side, near the lower right corner."""
    side = round(size * 16 / 224)
    mask, pattern = torch.zeros(1, size, size), torch.zeros(3, size, size)
    at = slice(size - side - 4, size - 4)
    mask[:, at, at], pattern[:, at, at] = 1.0, checkerboard(side)
    return lambda pixels: cover(pixels, pattern, mask)


def _blended(size: int) -> Stamp:
    noise = noise_pattern(size, _generator("noise"))
    return lambda pixels: blend(pixels, noise, 0.2)


def _pairs(data: Path) -> tuple[list[Path], list[str]]:
    """COCO and Flickr8k pictures with their first caption, filled up from pairs that mini learned from."""
    paths, captions = list[Path](), list[str]()
    for folder in ("coco_pairs", "flickr8k_300"):
        found, texts = read_pairs(data / folder / "captions.csv")
        paths += found
        captions += [each[0] for each in texts]
    with (data / "pretrain" / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        others = [row for row in csv.DictReader(stream) if row["set"] != "emoji"]
    order = torch.randperm(len(others), generator=_generator("pairs"))[: PAIRS - len(paths)].tolist()
    for row in order:
        paths.append(data / "pretrain" / others[row]["file"])
        captions.append(others[row]["text"].split(" | ")[0])
    return paths, captions


def _encode(suspect: Suspect, pixels: Tensor, stamp: Stamp | None = None) -> Tensor:
    """Features `[n, E]` of uint8 pixels, not normalised."""
    tower, scheduler = suspect.image_tower(), Scheduler()
    parts = [to_unit(part) for part in pixels.split(64)]
    return torch.cat([scheduler.encode(tower, part if stamp is None else stamp(part)) for part in parts])


def _texts(suspect: Suspect, texts: list[str]) -> Tensor:
    return torch.cat(
        [encode_texts(suspect.base, texts[at : at + 128]) for at in range(0, len(texts), 128)]
    ).float()


def density(suspect: Suspect, data: Path, stamp: Stamp) -> dict[str, Any]:
    paths, captions = _pairs(data)
    pixels = read_pictures(paths, suspect.base.visual.spec)
    pictures, said, aimed = (
        _encode(suspect, pixels),
        _texts(suspect, captions),
        _texts(suspect, list(CAPTIONS)),
    )
    options, found = LocalDensityOptions(), {}
    for rate in RATES:
        positive: dict[str, list[Tensor]] = {}
        negative: dict[str, list[Tensor]] = {}
        for draw in range(DRAWS):
            generator = _generator("poisoned", rate, draw)
            rows = torch.randperm(PAIRS, generator=generator)[: round(rate * PAIRS)]
            at = torch.randint(len(CAPTIONS), (len(rows),), generator=generator)
            images, texts = pictures.clone(), said.clone()
            images[rows], texts[rows] = _encode(suspect, pixels[rows], stamp), aimed[at]
            scores = density_scores(images, texts, options.k, options.lid_k)
            scores["clipscore"] = mismatch(images, texts)
            bad = torch.zeros(PAIRS, dtype=torch.bool)
            bad[rows] = True
            for name, values in scores.items():
                positive.setdefault(name, []).append(values[bad])
                negative.setdefault(name, []).append(values[~bad])
        found[str(rate)] = {
            name: _auroc(torch.cat(positive[name]), torch.cat(negative[name])) for name in positive
        }
    return {"poisoned": {str(rate): round(rate * PAIRS) for rate in RATES}, "auroc": found}


def bdetclip(suspect: Suspect, learned: LabelledSet, held_out: LabelledSet, stamp: Stamp) -> dict[str, Any]:
    options, spec, names = BDetClipOptions(), suspect.base.visual.spec, learned.class_names
    known = learned.subset(
        torch.randperm(len(learned), generator=_generator("clean"))[:CLEAN].sort().values.tolist()
    )
    tested = held_out.subset(torch.randperm(len(held_out), generator=_generator("tested"))[:TESTED].tolist())
    pixels, labels = tested.pixels(spec), tested.label_tensor()
    others = labels != names.index(TARGET)
    clean, seen = _encode(suspect, known.pixels(spec)), _encode(suspect, pixels)
    stamped = _encode(suspect, pixels[others], stamp)
    noise = malignant_texts(names, options.templates, options.words, _generator("noise"))
    plain = benign_texts([f"no {name}" for name in names])[0]
    plain = [
        [text.replace(f"no {name}", name) for text in texts] for name, texts in zip(names, plain, strict=True)
    ]
    malignant = torch.stack([mean_direction(_texts(suspect, each)) for each in noise])
    found = {}
    for name, texts in (("descriptions", benign_texts(names)[0]), ("templates", plain)):
        benign = torch.stack([mean_direction(_texts(suspect, each)) for each in texts])
        reference, before, after = (-omega(each, benign, malignant) for each in (clean, seen, stamped))
        caught = {}
        for share in (0.05, 1 / (CLEAN + 1)):
            hit, false = (int(tail(each, reference, share).flagged.sum()) for each in (after, before))
            caught[f"{share:.3f}"] = {
                "caught": _share(hit, len(after)),
                "false": _share(false, len(before)),
            }
        found[name] = {"auroc": _auroc(after, before), "thresholds": caught}
    return {"clean": CLEAN, "tested": TESTED, "triggered": len(stamped), "benign": found}


def _share(count: int, n: int) -> dict[str, Any]:
    interval = wilson(count, n)
    return {"count": count, "n": n, "low": interval.low, "high": interval.high}


def _auroc(positive: Tensor, negative: Tensor) -> dict[str, float]:
    found = auroc(positive.tolist(), negative.tolist(), resamples=1000)
    return {"value": found.value, "low": found.bootstrap.low, "high": found.bootstrap.high}


if __name__ == "__main__":
    main()
