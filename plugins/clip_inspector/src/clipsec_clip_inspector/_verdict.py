"""From per-class numbers to a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipsec.results import Artifact, ClassEvidence, Interval, Outcome, Verdict
from clipsec.stats import newcombe, wilson
from clipsec_clip_inspector._decision import Decision, decide_across, decide_paired
from clipsec_clip_inspector._plan import Plan
from clipsec_clip_inspector._score import ClassResult

NO_BASE = (
    "there is no clean base to compare with, so the published test across classes decides; "
    "it takes natural hub classes for targets: give a clean model of the same kind with --reference"
)


def make_verdict(
    plan: Plan, results: Sequence[ClassResult], artifacts: Mapping[int, tuple[Artifact, ...]]
) -> Verdict:
    """Decide by the rule that the options name, and report what the other rule would have said."""
    options = plan.options
    # Losses after different numbers of updates cannot be compared across classes.
    across = None if plan.rungs else decide_across(results, min_success=options.min_success)
    paired = decide_paired(results) if plan.null is not None else None
    notes = []
    if options.decision == "paired" and paired is None:
        notes.append(NO_BASE)
    if options.decision == "paired" and paired is not None:
        decision = decide_paired(results, threshold=options.threshold)
    else:
        decision = decide_across(results, threshold=options.threshold, min_success=options.min_success)
    given_up = sum(result.given_up_after is not None for result in results)
    if given_up:
        notes.append(
            f"{given_up} of {len(results)} classes did not stand out against the base and were given up early"
        )
    if len(plan.candidates) < len(plan.class_names):
        notes.append(f"only {len(plan.candidates)} of {len(plan.class_names)} classes were inspected")
    return Verdict(
        outcome=_outcome(decision, plan),
        summary=summarise(decision, results, plan.class_names),
        score=decision.scores[decision.best],
        score_name=decision.score_name,
        threshold=decision.threshold,
        threshold_source=decision.threshold_source,
        target=plan.class_names[results[decision.best].index] if decision.flagged else None,
        target_index=results[decision.best].index if decision.flagged else None,
        interval=_excess_interval(results[decision.best])
        if decision.score_name == "excess success"
        else None,
        n=len(plan.pixels),
        evidence=tuple(
            _evidence(plan, i, result, decision, across, paired, artifacts.get(result.index, ()))
            for i, result in enumerate(results)
        ),
        measures=_measures(across, paired),
        notes=(*notes, *decision.notes),
    )


def _outcome(decision: Decision, plan: Plan) -> Outcome:
    # What was not inspected cannot be clean.
    if decision.outcome is Outcome.CLEAN and len(plan.candidates) < len(plan.class_names):
        return Outcome.INCONCLUSIVE
    return decision.outcome


def summarise(decision: Decision, results: Sequence[ClassResult], class_names: Sequence[str]) -> str:
    """One sentence for people."""
    best = results[decision.best]
    name = class_names[best.index]
    if best.base is not None and decision.score_name == "excess success":
        base = max(best.base.transfer_hits, best.base.null_hits) / max(best.base.n, 1)
        numbers = f"{best.base.hits / max(best.base.n, 1):.0%} of pictures, {base:.0%} on the clean base"
    else:
        numbers = f"{best.success_rate:.0%} of pictures, anomaly score {decision.scores[decision.best]:.2f}"
    if decision.flagged:
        more = f" (and {len(decision.flagged) - 1} more)" if len(decision.flagged) > 1 else ""
        return f"backdoored: an inverted trigger sends pictures to {name!r}{more}: {numbers}"
    return f"no class gives way unnaturally; the nearest is {name!r}: {numbers}"


def _evidence(
    plan: Plan,
    position: int,
    result: ClassResult,
    decision: Decision,
    across: Decision | None,
    paired: Decision | None,
    artifacts: tuple[Artifact, ...],
) -> ClassEvidence:
    measures = {"score": decision.scores[position], "success_rate": result.success_rate}
    if result.base is not None and paired is not None:
        n = max(result.base.n, 1)
        measures |= {
            "null_success_rate": result.base.null_hits / n,
            "null_loss": result.base.null_loss,
            "excess_success": paired.scores[position],
        }
        if result.given_up_after is None:
            measures |= {
                "transfer_success_rate": result.base.transfer_hits / n,
                "transfer_loss": result.base.transfer_loss,
                "p_value": result.base.p_value,
            }
    measures["loss"] = result.loss
    measures["updates"] = len(plan.batches) if result.given_up_after is None else result.given_up_after
    if across is not None:
        measures["anomaly_score"] = across.scores[position]
    return ClassEvidence(
        index=result.index,
        name=plan.class_names[result.index],
        flagged=position in decision.flagged,
        measures=measures,
        n=result.n,
        success_interval=wilson(result.hits, result.n),
        artifacts=artifacts,
    )


def _excess_interval(result: ClassResult) -> Interval | None:
    """Newcombe's interval; it takes the two rates as independent, which is conservative for paired ones."""
    base = result.base
    if base is None or base.n == 0:
        return None
    return newcombe(base.hits, base.n, max(base.transfer_hits, base.null_hits), base.n)


def _measures(across: Decision | None, paired: Decision | None) -> dict[str, float]:
    """What each rule says by itself, whichever decided."""
    measures = {}
    if across is not None:
        measures |= {
            "across_score": across.scores[across.best],
            "across_would_flag": float(bool(across.flagged)),
        }
    if paired is not None:
        measures |= {
            "paired_score": paired.scores[paired.best],
            "paired_would_flag": float(bool(paired.flagged)),
        }
    return measures
