"""The cost of a scan: all classes of a prompt-tuned model, ours against the paper's plain recipe, and how it
grows.

    python -m tests.benchmarks.scan                       # 50 classes, 1,000 pictures: some minutes
    python -m tests.benchmarks.scan --classes 5 20 100 --pictures 256 --models 3 --out FILE.json

The model is the shipped BadCLIP delivery with its ten class names and further ones, which its prompts take as
they are. Ours is `clipsec.audit` with CLIP-Inspector and successive halving: loading, sanity gate, the base's
own searches, decision and report included. `--models` audits further deliveries on the same base, which find
its searches done. The plain recipe costs the same for every class and every update, so some updates of one
class and the evaluation of some pictures are timed, and multiplied.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks._machine import describe
from tests.benchmarks._plain_inversion import invert_class
from tests.benchmarks._timing import CLOCKS
from tests.benchmarks.all_class_inversion import DELIVERY, plain_model

import clipsec
from clipsec.data import ImagePool
from clipsec.models import Suspect, load_suspect
from clipsec_zoo import image_pool_folder

FURTHER = ("zoo:demo-blended", "zoo:demo-clean")
BATCH, PLAIN_UPDATES, EPSILON = 32, 2, 8 / 255
QUALITIES = ("small", "large", "old", "new", "wooden", "red", "blue", "green", "white", "black")
THINGS = (
    *("chair", "lamp", "bridge", "guitar", "kettle", "bicycle", "tower", "spoon", "rabbit", "tractor"),
    *("violin", "candle", "ladder", "helmet", "barrel", "window", "anchor", "basket", "pencil", "hammer"),
)


def class_names(own: tuple[str, ...], n: int) -> tuple[str, ...]:
    """The model's own names, filled up to `n`, or the first of them."""
    more = [f"{size} {thing}" for size in QUALITIES for thing in THINGS]
    return (*own, *more)[:n]


def scan(suspect: Suspect, pool: ImagePool, folder: Path, schedule: str, clock: str) -> dict[str, Any]:
    """One audit: seconds, rows and verdict."""
    now = CLOCKS[clock]
    start = now()
    result = clipsec.audit(
        suspect,
        pool=pool,
        detectors=["clip-inspector"],
        options={"clip-inspector": {"schedule": schedule}},
        runs=folder / "runs",
        shared=folder / "shared",
    )
    seconds = now() - start
    (verdict,) = result.verdicts.values()
    return {
        "suspect": suspect.name,
        "seconds": round(seconds, 1),
        "forward_rows": verdict.cost.forward_rows if verdict.cost else None,
        "backward_rows": verdict.cost.backward_rows if verdict.cost else None,
        "outcome": str(verdict.outcome),
        "target": verdict.target,
        "score": verdict.score,
    }


def plain_seconds(suspect: Suspect, pixels: torch.Tensor, clock: str) -> float:
    """The whole scan of the plain recipe, from a few timed updates and one timed evaluation batch."""
    model, now = plain_model(suspect), CLOCKS[clock]
    few = pixels[:BATCH]
    start = now()
    invert_class(model, few, 0, [], EPSILON)
    evaluation = (now() - start) / len(few)
    start = now()
    invert_class(model, few, 0, [torch.arange(BATCH)] * PLAIN_UPDATES, EPSILON)
    update = (now() - start - evaluation * len(few)) / PLAIN_UPDATES
    updates = -(-len(pixels) // BATCH)
    # The evaluation there predicts clean pictures as well; a reader would do that once, not for each class.
    return len(suspect.class_names) * (updates * update + len(pixels) * evaluation / 2)


def main() -> None:
    """Print one line a scan, and write them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[50])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--models", type=int, default=2, choices=range(1, 2 + len(FURTHER)))
    parser.add_argument("--schedules", nargs="+", default=["halving"], choices=("halving", "full"))
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pool = ImagePool.from_folder(image_pool_folder(), limit=given.pictures)
    lines: list[dict[str, Any]] = []
    for n in given.classes:
        names = class_names(load_suspect(DELIVERY).class_names, n)
        for schedule in given.schedules:
            with tempfile.TemporaryDirectory() as temporary:
                for position, spec in enumerate((DELIVERY, *FURTHER)[: given.models]):
                    suspect = load_suspect(spec, class_names=names)
                    line = {"classes": n, "pictures": len(pool), "schedule": schedule, "model": position + 1}
                    line |= scan(suspect, pool, Path(temporary), schedule, given.clock)
                    lines.append(line)
                    print(json.dumps(line), flush=True)
        if not given.no_plain:
            suspect = load_suspect(DELIVERY, class_names=names)
            assert suspect.base.visual is not None
            seconds = plain_seconds(suspect, pool.pixels(suspect.base.visual.spec), given.clock)
            line = {"classes": n, "pictures": len(pool), "schedule": "plain", "seconds": round(seconds, 1)}
            lines.append(line)
            print(json.dumps(line), flush=True)
    if given.out:
        document = {"machine": describe(given.clock), "scans": lines}
        given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
