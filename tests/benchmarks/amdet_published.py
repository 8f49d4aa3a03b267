"""One AMDET detection by `amdet` against the published procedure written plainly, on the same checkpoint,
reference and captions.

    python -m tests.benchmarks.amdet_published --data DATA --out speed.json
    python -m tests.benchmarks.amdet_published --data DATA --models "distilled, Flickr8k" --out speed.json

Models are those of `tests.studies.amdet_mini` (text towers made from `zoo:mini`), trained if `--work` has not
got them. A model that stands in `--out` is not measured again; it stands there after the first audit of ours.

Ours is `clipsec.audit` as a user calls it: loading, sanity gate, search, tests and report included; with its
defaults, and with one start, as published. The plain side (`_plain_amdet`) runs its whole search for real and
each update is timed. What it repeats one prompt or one point at a time is not: some held-out prompts of each
test and some points of a landscape are timed before, between and after the other parts, and the medians are
multiplied by how often the published procedure does them in this search. How often, and the plain decision,
are found by making every check of the search with the prompts in batches, until a test is known to fail. Each
check that passes three tests has its landscape drawn whole. Preparing the clean features is timed and not
counted, since the published times leave it out; ours includes it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from tests.benchmarks import _plain_amdet as plain
from tests.benchmarks._machine import describe
from tests.benchmarks._timing import CLOCKS, Row, table
from tests.studies.amdet_mini import MODELS, caption_files, made
from torch import Tensor

import clipsec
from clipsec.data import LabelledSet, coco_captions
from clipsec.models import Suspect, load_suspect, pad_with_end
from clipsec.runner import shipped_labelled
from clipsec.store import atomic_write
from clipsec_registry import Registry

REFERENCE = "zoo:mini"
OURS: dict[str, dict[str, Any]] = {"one start": {"starts": 1}, "defaults": {}}
PROMPTS, POINTS = 40, 25
"""Held-out prompts of each test, and points of a landscape, that are timed in a round."""
CHUNK = 40
"""Held-out prompts that are judged together where only the answer counts."""
UNCLEAR = 0.1
"""Checks whose share in the first test lies this near to its threshold are counted: what they cost is less
sure."""
GOAL = 20


def prepare(suspect: Suspect, reference: Suspect, clock: str) -> tuple[plain.Pair, float]:
    """The plain side's stacks and prompts, and the seconds of a clean feature.

    Captions in the order of a seed, the last fifth held out, padded with the end token."""
    assert suspect.base.text is not None
    assert reference.base.text is not None
    embed, stack = plain.transformers_stack(suspect.base.text.module)
    pool, generator = coco_captions(), torch.Generator().manual_seed(plain.SEED)
    texts = [pool.texts[i] for i in torch.randperm(len(pool), generator=generator).tolist()]
    rows = embed(pad_with_end(suspect.base, suspect.base.text.tokenizer(texts)))
    train, held_out = rows[: -plain.HELD_OUT], rows[-plain.HELD_OUT :]
    anchor = plain.open_clip_stack(reference.base.text.module)
    for model, of in ((suspect, stack), (reference, anchor)):
        # Another architecture, mask or order of layers would be fast and wrong.
        with torch.no_grad():
            torch.testing.assert_close(
                of(held_out[:4]), model.embedding_tower().fn(held_out[:4]), atol=1e-3, rtol=1e-3
            )
    now = CLOCKS[clock]
    start = now()
    pair = plain.Pair(stack, anchor, train, rows[:0], held_out)
    clean = plain.feature_one_by_one(pair, train)
    return attrs.evolve(pair, clean=clean), (now() - start) / len(train)


class Samples:
    """Seconds of what the plain side repeats, for a prompt or a point."""

    def __init__(self, pair: plain.Pair, clock: str) -> None:
        self._pair, self._now = pair, CLOCKS[clock]
        self.seconds: dict[str, list[float]] = {}

    def add(self) -> None:
        """One round of all parts, at a vector as the search starts with: the work is the same at any."""
        pair, generator = self._pair, torch.Generator().manual_seed(plain.SEED)
        vector = torch.randn(pair.train.shape[2], generator=generator)
        rows = pair.held_out[:PROMPTS]
        clean = plain.feature_one_by_one(pair, rows[:1])
        axes = plain.directions(pair, vector, rows[:1], clean)
        points = torch.randperm(plain.POINTS**2, generator=generator)[:POINTS].tolist()
        cases = {
            "alike": (PROMPTS, lambda: plain.share_alike(pair, vector, rows)),
            "same": (PROMPTS, lambda: plain.share_same(pair, vector, rows)),
            "different": (PROMPTS, lambda: plain.share_different(pair, vector, rows)),
            "landscape": (
                POINTS,
                lambda: plain.surface_losses(pair, vector, rows[:1], clean, axes, points),
            ),
        }
        for name, (times, case) in cases.items():
            start = self._now()
            case()
            self.seconds.setdefault(name, []).append((self._now() - start) / times)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


@attrs.frozen
class Judged:
    """What one check of the plain search would have done."""

    tests: tuple[str, ...]
    """Those that run, each because the one before it passes."""
    seen: int
    """Held-out prompts that were looked at to know it."""
    alike: float
    same: float
    """Shares of the prompts seen."""
    different: float | None = None
    convex: float | None = None
    passed: bool = False


def judge(pair: plain.Pair, vector: Tensor) -> Judged:
    """One check, the held-out prompts in batches until the first or second test is known to fail.

    Whether the second test passes is exact. Where it fails before all prompts are seen, the first is judged
    by those that were: that decides what the check costs, not what it says.
    """
    n = len(pair.held_out)
    collapsed: list[Tensor] = []
    agreed: list[Tensor] = []
    first: Tensor | None = None
    for rows in pair.held_out.split(CHUNK):
        with torch.no_grad():
            hidden = pair.suspect(plain.put_in(rows, vector))
        first = hidden[:1] if first is None else first
        collapsed.append(plain.alike(hidden) > plain.ALIKE)
        agreed.append(plain.cosine(hidden, first) > plain.SAME)
        alike_failed, same_failed = (int((~torch.cat(each)).sum()) for each in (collapsed, agreed))
        # The first prompt is like itself and is not counted among the n.
        lost = (n - alike_failed) / n <= plain.ALIKE_SHARE or (n - 1 - same_failed) / n <= plain.SAME_SHARE
        if lost:
            break
    alike, same = (float(torch.cat(each).double().mean()) for each in (collapsed, agreed))
    judged = Judged(("alike",), sum(map(len, agreed)), alike, same)
    if alike > plain.ALIKE_SHARE:
        judged = attrs.evolve(judged, tests=("alike", "same"))
    if lost:
        return judged
    with torch.no_grad():
        places = (plain.put_in(rows, vector) for rows in pair.held_out.split(CHUNK))
        likeness = torch.cat([plain.cosine(pair.suspect(rows), pair.reference(rows)) for rows in places])
    different = float((likeness < plain.DIFFERENT).double().mean())
    judged = attrs.evolve(judged, tests=(*judged.tests, "different"), different=different)
    if different <= plain.DIFFERENT_SHARE:
        return judged
    convex = plain.share_convex(pair, vector)
    passed = convex > plain.CONVEX_SHARE
    return attrs.evolve(judged, tests=(*judged.tests, "landscape"), convex=convex, passed=passed)


def plain_search(pair: plain.Pair, clock: str) -> tuple[list[float], list[plain.Check], list[Judged], float]:
    """The whole plain search with every check judged: losses, checks, what each did, seconds of the updates
    alone."""
    losses: list[float] = []
    checks: list[plain.Check] = []
    judged: list[Judged] = []
    now, seconds = CLOCKS[clock], 0.0
    torch.manual_seed(plain.SEED)
    start = now()
    for check in plain.search(pair, losses):
        seconds += now() - start
        checks.append(check)
        judged.append(judge(pair, check.vector))
        start = now()
        if judged[-1].passed:
            return losses, checks, judged, seconds
    return losses, checks, judged, seconds + now() - start


def ours_of(folder: Path, options: dict[str, Any], clock: str) -> dict[str, Any]:
    """One audit by `amdet` in fresh folders, everything from loading to the report included."""
    now = CLOCKS[clock]
    with tempfile.TemporaryDirectory() as runs:
        start = now()
        result = clipsec.audit(
            str(folder),
            detectors=["amdet"],
            options={"amdet": {**options, "paired": False}},
            reference=load_suspect(REFERENCE),
            runs=Path(runs, "runs"),
            shared=Path(runs, "shared"),
        )
        seconds = now() - start
    (verdict,) = result.verdicts.values()
    if verdict.error is not None or verdict.cost is None:
        raise SystemExit(f"{verdict.summary}\n{verdict.error.traceback if verdict.error else ''}")
    return {
        "seconds": round(seconds, 2),
        "decision": str(verdict.outcome),
        "score": verdict.score,
        "starts": [item.measures for item in verdict.evidence],
        "forward_rows": verdict.cost.forward_rows,
        "backward_rows": verdict.cost.backward_rows,
    }


def plain_document(
    losses: list[float], checks: list[plain.Check], judged: list[Judged], updating: float, samples: Samples
) -> dict[str, Any]:
    """Counts, seconds of each part, and the sum."""
    times = {
        "alike": plain.HELD_OUT,
        "same": plain.HELD_OUT,
        "different": plain.HELD_OUT,
        "landscape": plain.POINTS**2,
    }
    parts = {}
    for name, each in times.items():
        runs = sum(name in one.tests for one in judged)
        one_run = each * samples.median(name)
        parts[name] = {
            "runs": runs,
            "times_a_run": each,
            "seconds_each": samples.median(name),
            "rounds": samples.seconds[name],
            "seconds_a_run": round(one_run, 2),
            "seconds": round(runs * one_run, 2),
        }
    total = updating + sum(part["seconds"] for part in parts.values())
    told = {}
    if judged:
        closest = max(range(len(judged)), key=lambda i: judged[i].same)
        places = {"first_check": 0, "closest_check": closest, "last_check": -1}
        told = {
            name: {"update": checks[i].update, "mean": checks[i].mean, **attrs.asdict(judged[i])}
            for name, i in places.items()
        }
    return {
        "decision": "finding" if any(one.passed for one in judged) else "clean",
        "updates": len(losses),
        "update_seconds": round(updating, 2),
        "checks": len(checks),
        "parts": parts,
        "seconds": round(total, 2),
        "last_loss": losses[-1],
        **told,
        "first_test_near_its_threshold": sum(abs(one.alike - plain.ALIKE_SHARE) < UNCLEAR for one in judged),
    }


def measure(folder: Path, clock: str) -> Iterator[dict[str, Any]]:
    """Both sides on one model, as it stands after each audit of ours; the samples of the plain side stand
    between the long parts."""
    pair, clean_seconds = prepare(load_suspect(str(folder)), load_suspect(REFERENCE), clock)
    samples, ours = Samples(pair, clock), {}
    samples.add()
    samples.seconds.clear()  # the first round warms up
    samples.add()
    losses, checks, judged, updating = plain_search(pair, clock)
    print(f"  plain: {len(losses)} updates in {updating:.0f} s, {len(checks)} checks", flush=True)
    for name, options in OURS.items():
        samples.add()
        ours[name] = ours_of(folder, options, clock)
        samples.add()
        print(f"  ours, {name}: {ours[name]['seconds']:.0f} s, {ours[name]['decision']}", flush=True)
        theirs = plain_document(losses, checks, judged, updating, samples)
        theirs["clean_features_not_counted"] = {
            "prompts": len(coco_captions()),
            "timed": len(pair.train),
            "seconds": round(clean_seconds * len(coco_captions()), 2),
        }
        yield {
            "ours": dict(ours),
            "plain": theirs,
            "ratio": {name: round(theirs["seconds"] / one["seconds"], 1) for name, one in ours.items()},
            "same_decision": {name: theirs["decision"] == one["decision"] for name, one in ours.items()},
        }


def rows(line: dict[str, Any]) -> list[Row]:
    """A model's lines of the table."""
    theirs = line["plain"]
    return [
        Row(
            f"{line['name']}; ours with {name}"
            + ("" if line["same_decision"][name] else "; THE DECISIONS DIFFER"),
            f"{one['seconds']:,.0f} s, {one['decision']}",
            f"{theirs['seconds']:,.0f} s, {theirs['decision']}",
            f"{line['ratio'][name]:.1f}x",
            f">= {GOAL}x, same decision",
        )
        for name, one in line["ours"].items()
    ]


def said(line: dict[str, Any]) -> str:
    """What the plain side's seconds are made of."""
    theirs, parts = line["plain"], line["plain"]["parts"]
    tests = ", ".join(
        f"{name} {part['runs']} times ({part['seconds_a_run']:,.1f} s each)" for name, part in parts.items()
    )
    rounds = len(parts["alike"]["rounds"])
    return (
        f"{line['name']}, plain: {theirs['updates']} updates in {theirs['update_seconds']:,.0f} s, all timed"
        f"; {theirs['checks']} checks: {tests}, from {rounds} samples of {PROMPTS} of {plain.HELD_OUT} "
        f"prompts and of {POINTS} of {plain.POINTS**2:,} points, multiplied."
    )


def main() -> None:
    """Measure what `--out` has not got yet, then print the table."""
    known = {model[0]: model for model in MODELS}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="as for tests.studies.amdet_mini")
    parser.add_argument("--models", nargs="+", default=[MODELS[0][0]], choices=tuple(known), metavar="NAME")
    parser.add_argument("--work", type=Path, help="where the models are kept; by default beside --out")
    parser.add_argument("--out", required=True, type=Path, help="JSON file that is read and filled")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    work = given.work or given.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"models": []}
    if given.out.exists():
        document = json.loads(given.out.read_text(encoding="utf-8"))
    registry = Registry()
    shipped = shipped_labelled(registry)
    assert shipped is not None, "clipsec-zoo is not installed"
    labelled, files = LabelledSet.from_folder(shipped[1]), caption_files(given.data, work)
    for name in given.models:
        if any(line["name"] == name for line in document["models"]):
            continue
        print(name, flush=True)
        folder = made(known[name], work, files, labelled, registry)
        machine = describe(given.clock)
        before = document["models"]
        for line in measure(folder, given.clock):
            document["models"] = [*before, {"name": name, "machine": machine} | line]
            atomic_write(given.out, (json.dumps(document, indent=1) + "\n").encode())
    print(*dict.fromkeys(line["machine"] for line in document["models"]), "", sep="\n")
    print(table([row for line in document["models"] for row in rows(line)]), "", sep="\n")
    print(*(said(line) for line in document["models"]), sep="\n")


if __name__ == "__main__":
    main()
