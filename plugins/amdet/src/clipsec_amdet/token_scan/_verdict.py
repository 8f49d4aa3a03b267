"""From what the search found to a verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch.nn.functional as F

from clipsec.models import decode_ids
from clipsec.protocols import Context
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec.scheduler import Problem
from clipsec_amdet.token_scan._calibration import Units, score_of, shipped_units, strongest
from clipsec_amdet.token_scan._plan import Plan
from clipsec_amdet.token_scan._scan import Candidate, Found, encode

SCORE = "pull of the strongest sequence, in thresholds"
NEAREST = 5
BLIND = (
    "The scan sees sequences of few tokens that move ordinary captions. A trigger of more tokens whose parts "
    "do nothing, one that needs a certain caption, and one whose tokens' embeddings were kept as they were "
    "(unless all tokens are scanned, tokens=0) can pass it."
)


def nearest_captions(plan: Plan, best: Candidate) -> Problem:
    """`((caption, cosine), ...)`: captions whose own features, in the reference, lie from the mean caption
    the way that a sequence goes; the nearest first."""
    features = yield from encode(plan.reference_search, plan.pool.ids, again=True)
    way = F.normalize(best.move, dim=0)
    cosines = F.normalize(features - features.mean(dim=0), dim=-1) @ way
    nearest = cosines.topk(min(NEAREST, len(cosines)))
    places, values = nearest.indices.tolist(), nearest.values.tolist()
    return tuple((plan.pool.texts[place], value) for place, value in zip(places, values, strict=True))


def make_verdict(context: Context, plan: Plan, found: Found, near: Sequence[tuple[str, float]]) -> Verdict:
    """A finding when the score is above the threshold."""
    threshold, units = plan.options.threshold, shipped_units()
    source = "set by the user" if threshold != 1.0 else units.source
    (best, score), n = strongest(found.suspect, units), len(plan.held_out)
    null, _ = strongest(found.null, units)
    flagged = score > threshold
    text = decode_ids(context.suspect.base, best.ids)
    measures = {
        "pull": best.pull,
        "null_pull": null.pull,
        "captured": best.captured,
        "captured_reference": best.captured_other,
        "tokens_scanned": float(len(plan.tokens)),
    }
    notes = [f"The null, what works in the reference alone: {decode_ids(context.suspect.base, null.ids)!r}"]
    artifacts: tuple[Artifact, ...] = ()
    if flagged:
        summary = (
            f"{text!r} at the {best.site} of captions pulls them {best.pull:.2f} further in the suspect "
            f"than in the reference, towards {near[0][0]!r}; {best.captured:.0%} of captions lose their "
            f"meaning to it ({best.captured_other:.0%} in the reference)"
        )
        notes.insert(0, "Nearest captions: " + "; ".join(f"{each} ({c:.2f})" for each, c in near))
        artifacts = (save_sequences(context, found),)
    else:
        summary = (
            f"No sequence of up to {plan.options.length} tokens takes captions far in the suspect that the "
            f"reference leaves where they were; the strongest is {text!r}"
        )
        notes.append(BLIND)
    return Verdict(
        outcome=Outcome.FINDING if flagged else Outcome.CLEAN,
        summary=summary + ".",
        score=score,
        score_name=SCORE,
        threshold=threshold,
        threshold_source=source,
        target=near[0][0] if near else None,
        n=n,
        evidence=tuple(_evidence(context, place, each, units, n) for place, each in enumerate(found.suspect)),
        measures=measures,
        artifacts=artifacts,
        notes=tuple(notes),
    )


def save_sequences(context: Context, found: Found) -> Artifact:
    """The sequences that work in the suspect, the strongest first, as JSON."""
    rows = [
        {"ids": list(each.ids), "text": decode_ids(context.suspect.base, each.ids), "site": each.site}
        for each in found.suspect
    ]
    content = (json.dumps(rows, indent=1) + "\n").encode()
    return context.save_artifact("sequences.json", "sequences", content, "token ids, and where they stand")


def _evidence(context: Context, place: int, each: Candidate, units: Units, n: int) -> ClassEvidence:
    measures = {
        "score": score_of(each.pull, len(each.ids), units),
        "pull": each.pull,
        "captured": each.captured,
        "captured_reference": each.captured_other,
        "tokens": float(len(each.ids)),
        "at_start": float(each.site == "start"),
    }
    name = decode_ids(context.suspect.base, each.ids)
    return ClassEvidence(
        index=place, name=name, flagged=measures["score"] > context.options.threshold, measures=measures, n=n
    )
