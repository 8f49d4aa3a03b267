"""The cost of a scan: all classes of a prompt-tuned model, ours against the paper's plain recipe, and how it
grows with the number of classes and with the number of models on one base.

    python -m tests.benchmarks.scan                       # 50 classes, 1,000 pictures: some minutes
    python -m tests.benchmarks.scan --classes 5 10 20 50 100 200 --models 1 --out scan.json
    python -m tests.benchmarks.scan --classes 10 --models 50 --no-plain --out scan.json
    python -m tests.benchmarks.scan --draw --out scan.json

Each scan is printed and written to `--out` as soon as it is done, and not done again: the same command goes
on after a kill, and several may fill one file. Beside it lie `scan_classes.svg` and `scan_models.svg`.

The model is the shipped BadCLIP delivery with its ten class names and further ones, which its prompts take as
they are. Ours is `clipsec.audit` with CLIP-Inspector: loading, sanity gate, the base's own searches, decision
and report included. `--models` audits further deliveries on the same base, which find its searches and the
clean features of the pictures done: two that are shipped, then copies of the first with a little noise on its
prompts, which cost what trained ones cost. The plain recipe costs the same for every class and every update,
so some updates of one class and the evaluation of some pictures are timed, and multiplied.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from tests.benchmarks._curves import classes_figure, models_figure
from tests.benchmarks._machine import describe
from tests.benchmarks._plain_inversion import invert_class
from tests.benchmarks._timing import CLOCKS
from tests.benchmarks.all_class_inversion import DELIVERY, plain_model

import clipsec
from clipsec.data import ImagePool
from clipsec.models import Suspect, load_suspect, save_prompts
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import atomic_write
from clipsec_zoo import image_pool_folder

FURTHER = ("zoo:demo-blended", "zoo:demo-clean")
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "halving": ("clip-inspector", {"schedule": "halving"}),
    "full": ("clip-inspector", {"schedule": "full"}),
    "probes": ("clip-inspector-plus", {"search": False}),
    "plus": ("clip-inspector-plus", {}),
}
"""What is measured, by the name that it has in the file: detector and options."""
NOISE = 0.02
"""Standard deviation of the noise on the prompts of further models, as a share of that of their values."""
PLAIN = "plain"
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


def delivery(number: int, names: tuple[str, ...], folder: Path) -> Path:
    """Write the delivery with this number, from 1, under these class names: its prompts stand before any
    name."""
    place = folder / f"{len(names)}-{number}"
    if not place.exists():
        shipped = (DELIVERY, *FURTHER)
        model = load_suspect(shipped[number - 1] if number <= len(shipped) else DELIVERY)
        assert model.prompts is not None
        ctx = model.prompts.ctx
        if number > len(shipped):
            generator = torch.Generator().manual_seed(number)
            ctx = ctx + NOISE * ctx.std() * torch.randn(ctx.shape, generator=generator)
        prompts = attrs.evolve(model.prompts, ctx=ctx, class_names=names)
        save_prompts(place, prompts, base=model.base_spec or model.base_name, epoch=1, clip=model.base)
    return place


def scan(
    place: Path,
    pool: ImagePool,
    schedule: str,
    clock: str,
    *,
    shared: Path,
    cache: FeatureCache,
) -> dict[str, Any]:
    """One audit: seconds, rows and verdict. `shared` has what is known of the base, `cache` its features."""
    now, (detector, options) = CLOCKS[clock], SCHEDULES[schedule]
    with tempfile.TemporaryDirectory() as runs:
        start = now()
        suspect = load_suspect(place)
        result = clipsec.audit(
            suspect,
            pool=pool,
            detectors=[detector],
            options={detector: options},
            runs=Path(runs),
            shared=shared,
            scheduler=Scheduler(cache=cache),
        )
        seconds = now() - start
    (verdict,) = result.verdicts.values()
    return {
        "suspect": place.name,
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
    invert_class(model, few, 0, [torch.arange(len(few))] * PLAIN_UPDATES, EPSILON)
    update = (now() - start - evaluation * len(few)) / PLAIN_UPDATES
    updates = -(-len(pixels) // BATCH)
    # The evaluation there predicts clean pictures as well; a reader would do that once, not for each class.
    return len(suspect.class_names) * (updates * update + len(pixels) * evaluation / 2)


class Book:
    """The scans that were done, in a file that always is whole; without a file, in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._document: dict[str, Any] = {"machines": [], "scans": []}
        if path is not None and path.exists():
            self._document = json.loads(path.read_text(encoding="utf-8"))

    @property
    def scans(self) -> list[dict[str, Any]]:
        """One line a scan."""
        return self._document["scans"]

    def has(self, what: dict[str, Any]) -> bool:
        """Whether this scan was done."""
        return any(what.items() <= line.items() for line in self.scans)

    def add(self, line: dict[str, Any], machine: str) -> None:
        """Keep a scan, with what it was measured on, and print it."""
        if machine not in self._document["machines"]:
            self._document["machines"].append(machine)
        self.scans.append(line | {"machine": self._document["machines"].index(machine)})
        print(json.dumps(line), flush=True)
        if self._path is not None:
            atomic_write(self._path, (json.dumps(self._document, indent=1) + "\n").encode())

    def draw(self) -> Iterator[Path]:
        """Draw both curves beside the file."""
        assert self._path is not None
        for name, figure in (("classes", classes_figure), ("models", models_figure)):
            place = self._path.with_name(f"{self._path.stem}_{name}.svg")
            atomic_write(place, figure(self.scans))
            yield place


def measure(given: argparse.Namespace, book: Book) -> None:
    """Do what was asked for and is not in the book yet."""
    pool = ImagePool.from_folder(image_pool_folder(), limit=given.pictures)
    machine, own = describe(given.clock), load_suspect(DELIVERY).class_names
    for n in given.classes:
        names = class_names(own, n)
        what = {"classes": len(names), "pictures": len(pool), "clock": given.clock, "threads": given.threads}
        for schedule in given.schedules:
            group = given.work / f"{len(names)}-{len(pool)}-{schedule}-{given.clock}-{given.threads}"
            cache = FeatureCache()
            for number in range(1, given.models + 1):
                line = what | {"schedule": schedule, "model": number}
                if book.has(line):
                    continue
                if number == 1:
                    # A scan that was cut short left some of the base's searches, which would make it cheap.
                    shutil.rmtree(group / "shared", ignore_errors=True)
                    cache = FeatureCache()
                cold = number > 1 and not book.has(line | {"model": number - 1, "session": given.session})
                place = delivery(number, names, given.work)
                found = scan(place, pool, schedule, given.clock, shared=group / "shared", cache=cache)
                book.add(line | {"session": given.session, "cold": cold} | found, machine)
        line = what | {"schedule": PLAIN}
        if given.plain and not book.has(line):
            suspect = load_suspect(delivery(1, names, given.work))
            assert suspect.base.visual is not None
            seconds = plain_seconds(suspect, pool.pixels(suspect.base.visual.spec), given.clock)
            book.add(line | {"seconds": round(seconds, 1)}, machine)


def main() -> None:
    """Print one line a scan, and keep them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[50])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--models", type=int, default=2, help="deliveries on one base")
    parser.add_argument("--schedules", nargs="+", default=["halving"], choices=tuple(SCHEDULES))
    parser.add_argument("--no-plain", dest="plain", action="store_false")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file that is read, filled and drawn")
    parser.add_argument("--work", type=Path, help="where deliveries and what is known of the base are kept")
    parser.add_argument("--draw", action="store_true", help="only draw what --out holds")
    given = parser.parse_args()
    if given.draw and given.out is None:
        parser.error("--draw needs --out FILE")
    if not 1 <= min(given.classes) <= max(given.classes) <= 200 or given.models < 1:
        parser.error("ask for 1 to 200 classes and for one model or more")
    torch.set_num_threads(given.threads)
    book = Book(given.out)
    given.session = 1 + max((line.get("session", 0) for line in book.scans), default=0)
    if not given.draw:
        with tempfile.TemporaryDirectory() as temporary:
            # With a file the folder stays, for the models that a next call adds.
            given.work = given.work or (given.out.with_suffix(".work") if given.out else Path(temporary))
            measure(given, book)
    if given.out:
        for place in book.draw():
            print(place)


if __name__ == "__main__":
    main()
