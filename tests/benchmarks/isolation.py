"""What a process of its own costs a detector, and that its rows still share batches with everybody else's.

CLIP-Inspector on the shipped BadCLIP delivery, once in process and once isolated, in turn, on the same
prepared towers and without anything stored; the two verdicts must agree to the last bit. Starting the process
is part of it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.benchmarks import _half_batches
from tests.benchmarks._timing import Row

from clipsec.data import ImagePool
from clipsec.models import Suspect, load_suspect
from clipsec.results import RunResult, Verdict
from clipsec.runner import audit
from clipsec.scheduler import Scheduler, events
from clipsec_registry import Registry
from clipsec_zoo import image_pool_folder

DELIVERY = "zoo:demo-badclip"
PICTURES = 96
RUNS = 3
"""Pairs of runs at most; each run takes half a minute."""


def rows(clock: str, repeats: int) -> list[Row]:
    """The ratio, and the packing. Always by the wall clock: there are two processes."""
    suspect = load_suspect(DELIVERY)
    pool = ImagePool.from_folder(image_pool_folder(), limit=PICTURES)
    return [packing(suspect, pool), cost(suspect, pool, min(repeats, RUNS))]


def cost(suspect: Suspect, pool: ImagePool, repeats: int) -> Row:
    """Seconds of the audit, isolated and in process."""
    took: dict[bool, list[float]] = {False: [], True: []}
    said: set[tuple[object, ...]] = set()
    inspect(suspect, ImagePool(pool.paths[:8]), False)  # prepares the towers
    for _ in range(repeats):
        for isolate, seconds in took.items():
            start = time.perf_counter()
            (verdict,) = sound(inspect(suspect, pool, isolate))
            seconds.append(time.perf_counter() - start)
            said.add((verdict.outcome, verdict.target, verdict.score, verdict.cost.backward_rows))
    if len(said) != 1:
        raise SystemExit(f"the verdicts differ: {said}")
    here, apart = statistics.median(took[False]), statistics.median(took[True])
    pairs = sorted(a / b for a, b in zip(took[True], took[False], strict=True))
    return Row(
        f"clip-inspector in a process of its own, {len(suspect.class_names)} classes x {len(pool)} pictures; "
        "same bits",
        f"isolated: {apart:.1f} s",
        f"in process: {here:.1f} s",
        f"{statistics.median(pairs):.2f}x ({pairs[0]:.2f} to {pairs[-1]:.2f})",
        "<= 1.3x",
    )


def inspect(suspect: Suspect, pool: ImagePool, isolate: bool) -> RunResult:
    """One audit in fresh folders."""
    with tempfile.TemporaryDirectory() as folder:
        return audit(
            suspect,
            pool=pool,
            detectors=["clip-inspector"],
            runs=Path(folder, "runs"),
            shared=Path(folder, "shared"),
            isolate=isolate,
        )


def sound(result: RunResult) -> list[Verdict]:
    """The verdicts; an error ends the benchmark."""
    for verdict in result.verdicts.values():
        if verdict.error is not None:
            raise SystemExit(f"{verdict.summary}\n{verdict.error.traceback}")
    return list(result.verdicts.values())


def packing(suspect: Suspect, pool: ImagePool) -> Row:
    """Two detectors that ask for half a batch at a time, one of them isolated: calls alone and together."""
    here, apart = calls(suspect, pool, ["half-here"]), calls(suspect, pool, ["half-apart"])
    both = calls(suspect, pool, ["half-here", "half-apart"])

    def shown(count: Counter[str]) -> str:
        return f"{count['rows']} rows in {count['grad']} forward and {count['backward']} backward calls"

    return Row(
        f"rows of an isolated and an in-process detector, {_half_batches.ROWS} each, in batches of 32",
        f"together: {shown(both)}",
        f"one after the other: {shown(here + apart)}",
        f"{(here + apart)['grad'] / both['grad']:.1f}x",
        "2x if in step from the first batch on",
    )


def calls(suspect: Suspect, pool: ImagePool, names: list[str]) -> Counter[str]:
    """Physical calls by operation, and the rows that wanted a gradient, of an audit."""
    count: Counter[str] = Counter()

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepDone):
            count[event.op] += 1
            count["rows"] += event.rows if event.op == "grad" else 0

    with tempfile.TemporaryDirectory() as folder:
        result = audit(
            suspect,
            pool=pool,
            detectors=[f"local/{name}" for name in names],
            registry=Registry(local=[_half_batches.__file__]),
            scheduler=Scheduler(on_event=listen),
            runs=Path(folder, "runs"),
            shared=Path(folder, "shared"),
        )
    sound(result)
    return count
