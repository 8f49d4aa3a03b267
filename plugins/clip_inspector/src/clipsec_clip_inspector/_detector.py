"""The detector: inverts every class as a scheduler problem, compares with the nulls, decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.protocols import Context, Need
from clipsec.scheduler import Encode, Gather, Problem
from clipsec.store import UnitStore, content_key
from clipsec_clip_inspector._evidence import save_trigger
from clipsec_clip_inspector._inversion import Inversion, evaluate, invert
from clipsec_clip_inspector._options import Options
from clipsec_clip_inspector._plan import Plan, Side, make_plan
from clipsec_clip_inspector._score import class_result
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
        clean = yield from clean_margins(plan, plan.suspect)
        clean_null = yield from clean_margins(plan, plan.null) if plan.null else iter_none()
        advance = _Progress(context, plan)
        problems: list[tuple[Any, Problem]] = []
        for target in plan.candidates:
            problems.append((("suspect", target), self._suspect_class(context, plan, target, advance)))
            if plan.null is not None:
                problems.append((("null", target), self._null_class(context, plan, target, advance)))
        live = max(1, CONCURRENT_ROWS // plan.options.batch_size)
        answers = yield Gather(problems, max_live=live)
        measured = {done.tag: done.unwrap() for done in answers}
        results, artifacts = [], {}
        for target in plan.candidates:
            delta, trajectory, margin = measured["suspect", target]
            base = None
            if clean_null is not None:
                base = margin[1], measured["null", target][2][0], clean_null
            results.append(class_result(target, margin[0], clean, base))
            artifacts[target] = save_trigger(context, plan, target, delta, trajectory)
        return make_verdict(plan, results, artifacts)

    def _suspect_class(
        self, context: Context, plan: Plan, target: int, advance: Callable[[int], None]
    ) -> Problem:
        """Delta, trajectory and margins (of the suspect, then of the base) of one class of the suspect."""
        name = f"class-{target:04d}"
        sides = [plan.suspect] if plan.null is None else [plan.suspect, plan.null]
        return (yield from stored_class(context.units, name, plan, sides, target, advance))

    def _null_class(
        self, context: Context, plan: Plan, target: int, advance: Callable[[int], None]
    ) -> Problem:
        """Delta, trajectory and margins of one class of the null."""
        assert plan.null is not None
        name = f"clip-inspector-null-{content_key(null=plan.null_key, target=target)}"
        return (yield from stored_class(context.shared, name, plan, [plan.null], target, advance))


def stored_class(
    store: UnitStore,
    name: str,
    plan: Plan,
    sides: Sequence[Side],
    target: int,
    advance: Callable[[int], None],
) -> Problem:
    """Invert one class on the first side and evaluate it on all, or load it when it is stored already.

    Returns delta, trajectory and margins `[sides, n]`.
    """
    unit = store.load(name)
    if unit is not None:
        advance(len(plan.batches))
        return unit.tensors["delta"], unit.data["trajectory"], unit.tensors["margins"]
    found: Inversion = yield from invert(
        sides[0].search_tower,
        sides[0].search_head,
        plan.pixels,
        target,
        batches=plan.batches,
        epsilon=plan.options.epsilon,
        learning_rate=plan.options.learning_rate,
        on_step=lambda: advance(1),
    )
    margin: Tensor = yield from evaluate(
        [(side.tower, side.head) for side in sides], plan.pixels, found.delta, target
    )
    store.save(
        name,
        {"class": plan.class_names[target], "trajectory": list(found.trajectory)},
        {"delta": found.delta, "margins": margin},
    )
    return found.delta, list(found.trajectory), margin


def clean_margins(plan: Plan, side: Side) -> Problem:
    """Clean predictions of the pool under one side, `[n]` class indices."""
    predictions = []
    for start in range(0, len(plan.pixels), 128):
        chunk = slice(start, start + 128)
        features = yield Encode(side.tower, to_unit(plan.pixels[chunk]), row_keys=plan.row_keys[chunk])
        logits = yield Encode(side.head, features)
        predictions.append(logits.argmax(dim=1))
    return torch.cat(predictions)


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
        self._tell(self._done / self._total, self._what)
