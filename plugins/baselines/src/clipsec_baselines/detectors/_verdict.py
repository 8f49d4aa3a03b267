"""From per-class sizes to a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec.stats import wilson
from clipsec_baselines.detectors._decision import ClassSize, Decision, decide
from clipsec_baselines.detectors._options import NeuralCleanseOptions, PixelBackdoorOptions
from clipsec_baselines.detectors._plan import Plan

SCORE_NAME = "anomaly index"


def make_verdict(
    plan: Plan,
    options: NeuralCleanseOptions | PixelBackdoorOptions,
    results: Sequence[ClassSize],
    artifacts: Mapping[int, tuple[Artifact, ...]],
    size_name: str,
) -> Verdict:
    """Decide, and say what the schedule did. `size_name` is what a size is, as a measure is named."""
    min_success = max(0.0, options.success_threshold - options.tolerance)
    decision = decide(results, min_success=min_success, threshold=options.threshold)
    notes = [*_schedule_notes(options, results), *decision.notes]
    outcome = decision.outcome
    if len(plan.candidates) < len(plan.class_names):
        notes.append(f"only {len(plan.candidates)} of {len(plan.class_names)} classes were inspected")
        # What was not inspected cannot be clean.
        outcome = Outcome.INCONCLUSIVE if outcome is Outcome.CLEAN else outcome
    target = results[decision.smallest].index if decision.flagged and decision.smallest is not None else None
    sizes = [r.size for r, i in zip(results, decision.indices, strict=True) if i is not None]
    return Verdict(
        outcome=outcome,
        summary=summarise(decision, results, plan.class_names, size_name),
        score=decision.score,
        score_name=SCORE_NAME,
        threshold=decision.threshold,
        threshold_source=decision.threshold_source,
        target=None if target is None else plan.class_names[target],
        target_index=target,
        n=len(plan.pixels),
        evidence=tuple(
            _evidence(plan, result, index, i in decision.flagged, size_name, artifacts.get(result.index, ()))
            for i, (result, index) in enumerate(zip(results, decision.indices, strict=True))
        ),
        measures={
            "valid_sizes": float(len(sizes)),
            **({f"median_{size_name}": float(np.median(sizes))} if sizes else {}),
        },
        notes=tuple(notes),
    )


def summarise(
    decision: Decision, results: Sequence[ClassSize], class_names: Sequence[str], size_name: str
) -> str:
    """One sentence for people."""
    if decision.smallest is None:
        return "no trigger was found that works, for any class"
    smallest = results[decision.smallest]
    name, what = class_names[smallest.index], size_name.replace("_", " ")
    numbers = f"{what} {smallest.size:.4g}, anomaly index {decision.score:.2f}"
    if not decision.flagged:
        return f"no class has an abnormally small trigger; the smallest is that of {name!r}: {numbers}"
    more = f" (and {len(decision.flagged) - 1} more)" if len(decision.flagged) > 1 else ""
    return f"backdoored: an abnormally small trigger sends pictures to {name!r}{more}: {numbers}"


def _schedule_notes(
    options: NeuralCleanseOptions | PixelBackdoorOptions, results: Sequence[ClassSize]
) -> list[str]:
    unit = "epochs" if options.schedule == "published" else "mini-batches"
    notes = [f"schedule {options.schedule!r}: {options.epochs} epochs, patience of {options.patience} {unit}"]
    unmoved = sum(not result.cost_moved for result in results)
    if unmoved:
        notes.append(
            f"the weight of the size never moved from its start for {unmoved} of {len(results)} classes, so "
            "their triggers are as large as the search happened to leave them"
        )
    return notes


def _evidence(
    plan: Plan,
    result: ClassSize,
    index: float | None,
    flagged: bool,
    size_name: str,
    artifacts: tuple[Artifact, ...],
) -> ClassEvidence:
    measures = {} if index is None else {"score": index}
    measures |= {
        "success_rate": result.success_rate,
        size_name: result.size,
        "last_cost": result.last_cost,
        "rounds": float(result.rounds),
    }
    return ClassEvidence(
        index=result.index,
        name=plan.class_names[result.index],
        flagged=flagged,
        measures=measures,
        n=result.n,
        success_interval=wilson(result.hits, result.n),
        artifacts=artifacts,
    )
