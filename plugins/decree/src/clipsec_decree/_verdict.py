"""From what the starts found to a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from clipsec.protocols import Context
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec.stats import wilson
from clipsec.triggers import Stamp, png, stamp_bytes
from clipsec_decree._decision import Decision, Start, valid
from clipsec_decree._plan import Plan

SAME = (
    "the suspect's image tower equals the reference's bit for bit: nothing was inserted into it. This says "
    "nothing about a backdoor that the reference itself has, nor about prompts or text towers"
)
BLIND = (
    "DECREE looks for a patch in image towers. Triggers that blend over the whole picture, triggers in "
    "captions and those that need a certain prompt can pass it."
)
PICTURE_SIDE = 256
"""Least height of the evidence picture; smaller ones are enlarged without smoothing."""


@attrs.frozen(eq=False)
class Found:
    """What one start found."""

    start: Start
    mask: Tensor
    pattern: Tensor
    updates: int


def same_verdict() -> Verdict:
    """The answer for a suspect whose image tower is its reference's."""
    return Verdict(Outcome.CLEAN, f"No inserted change: {SAME}.", measures={"equals_reference": 1.0})


def make_verdict(
    context: Context,
    plan: Plan,
    decision: Decision,
    ours: Sequence[Found],
    theirs: Sequence[Found],
    clean_similarity: float,
    answers: Tensor | None,
) -> Verdict:
    """`answers [k]` are the classes that held-out pictures get with the smallest mask's trigger."""
    best = ours[decision.smallest]
    hits, target = _most_frequent(answers)
    names = context.suspect.class_names
    name = names[target] if target is not None else None
    measures = {"pl1": best.start.pl1, "similarity": best.start.similarity}
    measures["clean_similarity"] = clean_similarity
    working = [each.start.pl1 for each in theirs if valid(plan.options, each.start)]
    if working:
        measures |= {"reference_pl1": min(working), "ratio": min(working) / max(best.start.pl1, 1e-9)}
    evidence = []
    for place, each in enumerate(ours):
        chosen = place == decision.smallest
        evidence.append(
            ClassEvidence(
                index=target if chosen and target is not None else place,
                name=name if chosen and name is not None else f"start {place + 1}",
                flagged=chosen and decision.flagged,
                measures=_measures(
                    each, hits / len(plan.held_out) if chosen and answers is not None else None
                ),
                n=len(plan.held_out),
                success_interval=wilson(hits, len(plan.held_out)) if chosen and answers is not None else None,
                artifacts=_artifacts(context, place, each),
            )
        )
    notes = list(decision.notes)
    if decision.outcome is Outcome.CLEAN:
        notes.append(BLIND)
    if not theirs:
        notes.append("a clean model named with --reference would be searched the same way, to compare with")
    return Verdict(
        outcome=decision.outcome,
        summary=_summary(plan, decision, best, measures, name),
        score=decision.score,
        score_name=decision.score_name,
        threshold=decision.threshold,
        threshold_source=decision.threshold_source,
        target=name if decision.flagged else None,
        target_index=target if decision.flagged else None,
        n=len(plan.held_out),
        evidence=tuple(evidence),
        measures=measures,
        notes=tuple(notes),
    )


def _most_frequent(answers: Tensor | None) -> tuple[int, int | None]:
    if answers is None:
        return 0, None
    counts = torch.bincount(answers)
    return int(counts.max()), int(counts.argmax())


def _measures(found: Found, success: float | None) -> dict[str, float]:
    measures = {
        "pl1": found.start.pl1,
        "similarity": found.start.similarity,
        "updates": float(found.updates),
        "ended": float(found.start.ended),
    }
    return measures if success is None else {**measures, "success_rate": success}


def _summary(
    plan: Plan, decision: Decision, best: Found, measures: dict[str, float], name: str | None
) -> str:
    if not valid(plan.options, best.start):
        return "No patch was found that gives held-out pictures one feature."
    beside = f"; the reference needs {measures['reference_pl1']:.1%}" if "reference_pl1" in measures else ""
    aim = f" ({name!r})" if decision.flagged and name else ""
    said = f"patch over {best.start.pl1:.1%} of the picture gives all pictures one feature{aim}{beside}."
    return f"Backdoored: a {said}" if decision.flagged else f"A {said}"


def _artifacts(context: Context, place: int, found: Found) -> tuple[Artifact, ...]:
    stamp = Stamp("masked", {"mask": found.mask, "pattern": found.pattern})
    stem = f"triggers/start-{place:03d}"
    meaning = "mask [1, H, W] and pattern [3, H, W] in pixel units: x' = (1 - mask) x + mask pattern"
    return (
        context.save_artifact(f"{stem}.safetensors", "trigger", stamp_bytes(stamp), meaning),
        context.save_artifact(
            f"{stem}.png",
            "picture",
            png(_picture(found)),
            "the mask, and what it lets through of the pattern",
        ),
    )


def _picture(found: Found) -> Tensor:
    sheet = torch.cat([found.mask.expand_as(found.pattern), found.mask * found.pattern], dim=2)
    factor = max(1, PICTURE_SIDE // sheet.shape[1])
    return sheet.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
