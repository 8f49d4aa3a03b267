"""From per-class numbers to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec_clip_inspector._plan import Plan
from clipsec_clip_inspector._score import ClassResult, robust_scores


def make_verdict(
    plan: Plan, results: Sequence[ClassResult], artifacts: Mapping[int, tuple[Artifact, ...]]
) -> Verdict:
    """The verdict and its evidence."""
    scores = robust_scores([r.loss for r in results])
    evidence = []
    for r, s in zip(results, scores):
        m = {"loss": r.loss, "success_rate": r.success_rate, "score": float(s)}
        if r.transfer_loss is not None:
            m["transfer_loss"] = r.transfer_loss
            m["transfer_success_rate"] = r.transfer_hits / r.transfer_n
        if r.null_loss is not None:
            m["null_loss"] = r.null_loss
            m["null_success_rate"] = r.null_hits / r.null_n
        evidence.append(ClassEvidence(r.index, plan.class_names[r.index], False, m, r.n, None, artifacts[r.index]))
    return Verdict(Outcome.INCONCLUSIVE, "provisional", evidence=tuple(evidence))
