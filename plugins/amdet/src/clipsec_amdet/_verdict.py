"""From what the starts found to a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import safetensors.torch

from clipsec.protocols import Context
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec_amdet._attention_picture import attention_picture
from clipsec_amdet._decode import Decoded
from clipsec_amdet._plan import Plan
from clipsec_amdet._search import Found

SCORE = "smallest margin of the tests"
PAIRED_SCORE = "how much more of one piece than the reference's"
BLIND = (
    "AMDET looks for one fixed target that any prompt is sent to. Attribute backdoors, targets on the pooled "
    "feature alone and triggers that need a certain prompt can pass it."
)
SAME = (
    "the suspect's text tower equals the reference's bit for bit: nothing was inserted into it. This says "
    "nothing about a backdoor that the reference itself has"
)
NO_REFERENCE = (
    "without a clean text tower of the same architecture AMDET cannot tell a planted target from the natural "
    "ones that every text tower has: vectors that send all prompts to one place exist in clean models too"
)


def same_verdict() -> Verdict:
    """The answer for a suspect whose text tower is its reference's."""
    return Verdict(Outcome.CLEAN, f"No inserted change: {SAME}.", measures={"equals_reference": 1.0})


def make_verdict(context: Context, plan: Plan, founds: Sequence[Found], decoded: Decoded | None) -> Verdict:
    """A finding when any start passed all tests."""
    margins = [found.decision.margin for found in founds]
    best = max(range(len(founds)), key=lambda start: (founds[start].decision.flagged, margins[start]))
    found, limits = founds[best], plan.thresholds
    flagged = found.decision.flagged
    notes: list[str] = []
    artifacts: tuple[Artifact, ...] = ()
    nearest = ""
    if flagged and decoded is not None:
        nearest = decoded.captions[0][0]
        notes.append("Nearest captions: " + "; ".join(f"{text} ({c:.2f})" for text, c in decoded.captions))
        if decoded.pictures:
            notes.append("Nearest pictures: " + ", ".join(name for name, _ in decoded.pictures))
        artifacts = save_target(context, plan, found, decoded)
        if plan.options.paired:
            sends = f"the held-out prompts to one place ({found.means['gap']:.2f} more than the reference's)"
        else:
            sends = f"{found.shares.same:.1%} of held-out prompts to one place"
        summary = (
            f"A vector in the text tower's input sends {sends}, near {nearest!r}; the reference does not go "
            "there"
        )
    else:
        summary = (
            f"None of {len(founds)} searches found a target that all prompts can be sent to; the nearest one "
            f"fails the test {found.decision.weakest!r}"
        )
        notes.append(BLIND)
    return Verdict(
        outcome=Outcome.FINDING if flagged else Outcome.CLEAN,
        summary=summary + ".",
        score=found.means["gap"] if plan.options.paired else found.decision.margin,
        score_name=PAIRED_SCORE if plan.options.paired else SCORE,
        threshold=limits.gap if plan.options.paired else 0.0,
        threshold_source=(
            f"for {limits.family} towers, {limits.gap_source if plan.options.paired else limits.source}"
        ),
        target=nearest or None,
        n=len(plan.held_out),
        evidence=tuple(_evidence(start, each, len(plan.held_out)) for start, each in enumerate(founds)),
        artifacts=artifacts,
        notes=tuple(notes),
    )


def save_target(context: Context, plan: Plan, found: Found, decoded: Decoded) -> tuple[Artifact, ...]:
    """The recovered vectors and feature, what they are near to, and where tokens look once they are in."""
    tensors = {"vectors": found.vectors.contiguous(), "feature": found.feature.contiguous()}
    described = "vectors [k, D], inserted after the start token; feature [D], the hidden state they lead to"
    saved = [
        context.save_artifact("target.safetensors", "feature", safetensors.torch.save(tensors), described),
        context.save_artifact("nearest.csv", "table", decoded.table(), "captions and pictures nearest to it"),
    ]
    if decoded.sheet:
        saved.append(
            context.save_artifact("nearest.png", "picture", decoded.sheet, "the pool's nearest pictures")
        )
    assert context.reference is not None  # `make_plan` has looked
    drawn = attention_picture(plan, context.suspect.base, context.reference.base, found.vectors)
    saved.append(context.save_artifact("attention.png", "picture", drawn.content, drawn.description))
    return tuple(saved)


def _evidence(start: int, found: Found, n: int) -> ClassEvidence:
    shares = found.shares
    measures = {
        "score": found.decision.margin,
        "collapsed_share": shares.collapsed,
        "same_share": shares.same,
        "different_share": shares.different,
        "loss": found.losses[-1],
        "updates": float(len(found.losses)),
        "vector_norm": float(found.vectors.norm(dim=-1).mean()),
        **found.means,
    }
    if shares.convex is not None:
        measures["convex_share"] = shares.convex
    return ClassEvidence(
        index=start, name=f"start {start + 1}", flagged=found.decision.flagged, measures=measures, n=n
    )
