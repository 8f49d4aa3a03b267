"""The detector: inverts every class as a scheduler problem, compares with the nulls, decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.protocols import Context, Need
from clipsec.scheduler import Encode, Gather, Problem
from clipsec_clip_inspector._decision import PAIRED_THRESHOLD
from clipsec_clip_inspector._evidence import save_trigger
from clipsec_clip_inspector._halving import Rung, standing, survivors
from clipsec_clip_inspector._options import Options
from clipsec_clip_inspector._plan import Plan, Side, make_plan
from clipsec_clip_inspector._score import class_result, early_result
from clipsec_clip_inspector._stored import Found, StoredSearch, null_search, suspect_search
from clipsec_clip_inspector._verdict import make_verdict

CONCURRENT_ROWS = 64
"""Rows of all live inversions together. More than the scheduler packs into one call would only delay the
first finished class, and a finished class is what survives a kill."""


class ClipInspector:
    """CLIP-Inspector (arXiv 2604.09101): one universal perturbation for each class, inverted on unlabelled
    pictures; a class that gives way far more easily than its null says is the backdoor's target."""

    summary: ClassVar[str] = "trigger inversion for every class of a prompt-tuned CLIP"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.CLASS_NAMES, Need.IMAGE_POOL})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = ("arXiv:2604.09101",)
    # clip-inspector-plus does, whose probes find more and cost less, and which makes this search when asked.
    by_default: ClassVar[bool] = False
    # What clipsec-testkit is to run it with; its toys need a larger ball and have few pictures.
    conformance: ClassVar[Mapping[str, Any]] = {
        "detects": frozenset({"visual", "prompt"}),
        "options": {"epsilon": 16 / 255, "epochs": 4, "learning_rate": 0.02},
        "tolerance": 0.05,
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`.

        Each class is a unit of work of its own: stored as soon as it is done, loaded on resume. Inversions of
        the null are stored by content under `context.shared` and serve every suspect on the same base.
        """
        plan = make_plan(context)
        clean = yield from clean_predictions(plan, plan.suspect)
        clean_null = yield from clean_predictions(plan, plan.null) if plan.null else iter_none()
        advance = _Progress(context, plan)
        results, artifacts = yield from search_classes(context, plan, clean, clean_null, advance)
        return make_verdict(plan, results, artifacts)


def search_classes(
    context: Context, plan: Plan, clean: Tensor, clean_null: Tensor | None, advance: Callable[[int], None]
) -> Problem:
    """Search a trigger for every candidate and measure it.

    `clean` and `clean_null` are the predictions of suspect and null without a trigger, `[n]`. Returns a
    `ClassResult` for each candidate and the artifacts of those that were searched to the end, by class.
    """
    searches = {target: suspect_search(context, plan, target, advance) for target in plan.candidates}
    nulls = {target: null_search(context, plan, target, advance) for target in plan.candidates if plan.null}
    alive, given_up = list(plan.candidates), {}
    for rung in plan.rungs:
        standings = yield from standings_at(rung, alive, searches, nulls, plan, clean, clean_null)
        kept = survivors(standings, rung.keep, PAIRED_THRESHOLD)
        given_up |= {
            target: early_result(target, at, rung.steps)
            for place, (target, at) in enumerate(zip(alive, standings, strict=True))
            if place not in kept
        }
        alive = [target for place, target in enumerate(alive) if place in kept]
    measured = yield from _gather(alive, searches, nulls, plan, StoredSearch.finish)
    results, artifacts = [], {}
    for target in plan.candidates:
        if target in given_up:
            results.append(given_up[target])
            continue
        found: Found = measured["suspect", target]
        base = None
        if clean_null is not None:
            base = found.margins[1], measured["null", target].margins[0], clean_null
        results.append(class_result(target, found.margins[0], clean, base))
        artifacts[target] = save_trigger(context, plan, target, found.delta, found.losses)
    return results, artifacts


def standings_at(
    rung: Rung,
    alive: Sequence[int],
    searches: Mapping[int, StoredSearch],
    nulls: Mapping[int, StoredSearch],
    plan: Plan,
    clean: Tensor,
    clean_null: Tensor,
) -> Problem:
    """Bring all searches to a rung; returns the `Standing` of each class."""
    seen = yield from _gather(alive, searches, nulls, plan, lambda search: search.until(rung.steps))
    standings = []
    for target in alive:
        free = (clean != target) & (clean_null != target)
        eligible = [free[batch].tolist() for batch in plan.batches[: rung.steps]]
        standings.append(standing(seen["suspect", target], seen["null", target], eligible, rung.steps))
    return standings


def _gather(
    targets: Sequence[int],
    searches: Mapping[int, StoredSearch],
    nulls: Mapping[int, StoredSearch],
    plan: Plan,
    what: Callable[[StoredSearch], Problem],
) -> Problem:
    """Run something of each search, of suspect and null; the answers by ("suspect" or "null", target)."""
    problems: list[tuple[Any, Problem]] = []
    for target in targets:
        problems.append((("suspect", target), what(searches[target])))
        if target in nulls:
            problems.append((("null", target), what(nulls[target])))
    answers = yield Gather(problems, max_live=max(1, CONCURRENT_ROWS // plan.options.batch_size))
    return {done.tag: done.unwrap() for done in answers}


def clean_predictions(plan: Plan, side: Side, rows: Tensor | None = None) -> Problem:
    """Clean predictions of the pool under one side, `[n]` class indices; -1 for pictures that are not among
    `rows`."""
    rows = torch.arange(len(plan.pixels)) if rows is None else rows.sort().values
    predictions = torch.full((len(plan.pixels),), -1)
    for chunk in rows.split(128):
        keys = [plan.row_keys[row] for row in chunk.tolist()]
        features = yield Encode(side.tower, to_unit(plan.pixels[chunk]), row_keys=keys)
        predictions[chunk] = (yield Encode(side.head, features)).argmax(dim=1).cpu()
    return predictions


def iter_none() -> Problem:
    """A problem that asks for nothing and returns None."""
    return None
    yield  # pragma: no cover - makes this a generator


class _Progress:
    """Counts finished updates and tells the context."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self._tell, self._total, self._done = context.progress, plan.steps, 0
        self._what = f"inverting {len(plan.candidates)} classes"

    def __call__(self, steps: int) -> None:
        self._done += steps
        self._tell(min(1.0, self._done / self._total), self._what)
