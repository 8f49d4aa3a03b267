"""From what probes and searches measured to a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipsec.results import Artifact, ClassEvidence, Interval, Outcome, Verdict
from clipsec.stats import newcombe, wilson
from clipsec_clip_inspector._decision import Decision
from clipsec_clip_inspector._plan import Plan
from clipsec_clip_inspector._plus_decision import class_score
from clipsec_clip_inspector._probing import ProbeResult
from clipsec_clip_inspector._score import ClassResult

Searched = ClassResult | None


def make_plus_verdict(
    plan: Plan,
    decision: Decision,
    probed: Sequence[ProbeResult],
    searched: Sequence[Searched],
    artifacts: Mapping[int, tuple[Artifact, ...]],
) -> Verdict:
    """The verdict; `artifacts` are files by class."""
    best = probed[decision.best]
    notes = []
    if len(plan.candidates) < len(plan.class_names):
        notes.append(f"only {len(plan.candidates)} of {len(plan.class_names)} classes were inspected")
    outcome = decision.outcome
    if outcome is Outcome.CLEAN and notes:  # What was not inspected cannot be clean.
        outcome = Outcome.INCONCLUSIVE
    return Verdict(
        outcome=outcome,
        summary=summarise(plan.class_names, decision, best, searched[decision.best]),
        score=decision.scores[decision.best],
        score_name=decision.score_name,
        threshold=decision.threshold,
        threshold_source=decision.threshold_source,
        target=plan.class_names[best.index] if decision.flagged else None,
        target_index=best.index if decision.flagged else None,
        interval=_interval(best),
        n=len(plan.pixels),
        evidence=tuple(
            _evidence(
                plan,
                probe,
                search,
                decision.scores[place],
                place in decision.flagged,
                artifacts.get(probe.index, ()),
            )
            for place, (probe, search) in enumerate(zip(probed, searched, strict=True))
        ),
        measures=_measures(probed, searched),
        notes=(*notes, *decision.notes),
    )


def summarise(names: Sequence[str], decision: Decision, probe: ProbeResult, search: Searched) -> str:
    """One sentence for people."""
    score, name = class_score(probe, search), names[probe.index]
    if search is not None and search.base is not None and score.search > score.probe:
        base, what = search.base, "a searched trigger"
        hits, base_hits, n = base.hits, max(base.transfer_hits, base.null_hits), base.n
    else:
        hits, base_hits, n, what = (
            probe.hits,
            probe.base_hits,
            probe.n,
            f"a probe ({' or '.join(dict.fromkeys(probe.probes))})",
        )
    numbers = f"{hits / max(n, 1):.0%} of pictures, {base_hits / max(n, 1):.0%} on the clean base"
    if decision.flagged:
        more = f" (and {len(decision.flagged) - 1} more)" if len(decision.flagged) > 1 else ""
        return f"backdoored: {what} sends pictures to {name!r}{more}: {numbers}"
    return f"no class gives way unnaturally; the nearest is {name!r} under {what}: {numbers}"


def _evidence(
    plan: Plan,
    probe: ProbeResult,
    search: Searched,
    score: float,
    flagged: bool,
    artifacts: tuple[Artifact, ...],
) -> ClassEvidence:
    n = max(probe.n, 1)
    measures = {"score": score, "probe_screened": probe.screened, "probe_excess": probe.excess}
    if probe.n:
        measures |= {
            "success_rate": probe.hits / n,
            "base_success_rate": probe.base_hits / n,
            "p_value": probe.p_value,
        }
    if search is not None and search.base is not None:
        measures |= {
            "search_success_rate": search.success_rate,
            "search_loss": search.loss,
            "search_null_loss": search.base.null_loss,
            "search_updates": len(plan.batches) if search.given_up_after is None else search.given_up_after,
        }
        if search.given_up_after is None:
            measures["search_excess"] = search.base.excess
    return ClassEvidence(
        index=probe.index,
        name=plan.class_names[probe.index],
        flagged=flagged,
        measures=measures,
        n=probe.n,
        success_interval=wilson(probe.hits, probe.n) if probe.n else None,
        artifacts=artifacts,
    )


def _interval(probe: ProbeResult) -> Interval | None:
    """Newcombe's interval of the probe's excess; it takes the two rates as independent, which is
    conservative for paired ones."""
    return newcombe(probe.hits, probe.n, probe.base_hits, probe.n) if probe.n else None


def _measures(probed: Sequence[ProbeResult], searched: Sequence[Searched]) -> dict[str, float]:
    """What each kind of trigger says by itself: its highest excess."""
    measures = {"probe_excess": max((probe.excess for probe in probed if probe.n), default=0.0)}
    done = [each.base.excess for each in searched if each and each.base and each.given_up_after is None]
    if done:
        measures["search_excess"] = max(done)
    return measures
