"""Footprints: branch swaps, component repair, and the search for the parts that carry the backdoor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from clipsec.exposure import (
    agreement,
    extended_label,
    hybrid,
    invalid_hybrid,
    paper_label,
    parts_of,
    rate,
    repair_agreement,
    repair_label,
    swap_parts,
    swap_ratios,
)
from clipsec.exposure._footprint import COMBINATIONS, STABLE, WEAK
from clipsec.exposure._hybrids import branch_pairs, branch_state
from clipsec.models import Suspect
from clipsec.results import Footprint, Label, Measurement, Rate

RECOVERED = 0.9
"""Share of sigma that the parts must bring back."""
REPAIRS = ("full", "prompt only", "trigger only", "neither")
_SAID = {
    Label.VISUAL: "the suspect's visual branch alone brings the effect",
    Label.TEXTUAL: "the suspect's textual branch alone brings the effect",
    Label.REDUNDANT: "either branch of the suspect alone brings the effect",
    Label.INTERACTION: "only both branches of the suspect together bring the effect",
    Label.WEAK: "the trigger does not do more on the suspect than on the reference",
    Label.AMBIGUOUS: "no branch dominates",
    Label.COUPLED: "the learned prompts and the trigger bring the effect together, neither does alone",
}


def hybrids(suspect: Suspect, reference: Suspect) -> dict[str, Suspect]:
    """The four combinations, by name."""
    return {
        f"a{int(visual)}{int(textual)}": hybrid(suspect, reference, visual=visual, textual=textual)
        for visual in (False, True)
        for textual in (False, True)
    }


def branch_footprint(
    trigger: int,
    interface: str,
    measured: Mapping[str, Sequence[Measurement]],
    trivial: tuple[str, ...],
    seed: int,
) -> Footprint:
    """The diagnosis from the four hybrids: each with its measurements without and with the trigger."""
    events = {name: measured[name][1].events for name in COMBINATIONS}
    rates = {name: rate(each) for name, each in events.items()}
    utilities = {name: rate(measured[name][0].utility) for name in COMBINATIONS if measured[name][0].utility}
    ratios = swap_ratios(*(rates[name].value for name in COMBINATIONS))
    published, label = paper_label(ratios), extended_label(ratios)
    share = agreement(events, label, seed=seed)
    agreed: float | None = share
    reason = _SAID.get(label, "")
    if label is Label.TEXTUAL and "visual" in trivial:
        reason += "; the visual branch is the reference's own, so this is so by construction"
    if label is Label.VISUAL and "textual" in trivial:
        reason += "; the textual branch is the reference's own, so this is so by construction"
    problem = invalid_hybrid(utilities)
    if problem and (label is not Label.WEAK or share < STABLE):
        label, reason, agreed = Label.INVALID, problem, None
    elif problem:
        reason += f", which takes no hybrid to see ({problem})"
    elif share < STABLE:
        reason = f"{label}, but in {share:.0%} of resamples only"
        label = Label.UNSTABLE
    return Footprint(
        trigger=trigger,
        interface=interface,
        probe="branch swap",
        label=label,
        paper_label=published,
        reason=reason,
        n=len(events["a00"]),
        rates=rates,
        ratios=ratios.named(),
        agreement=agreed,
        utilities=utilities,
        trivial=trivial,
    )


def failed_footprint(trigger: int, interface: str, error: Exception) -> Footprint:
    """What stands for a branch swap that could not be measured."""
    return Footprint(
        trigger=trigger,
        interface=interface,
        probe="branch swap",
        label=Label.INVALID,
        paper_label=Label.INVALID,
        reason=f"the hybrids could not be measured: {type(error).__name__}: {error}",
    )


def mechanism_footprint(
    trigger: int,
    interface: str,
    delivered: Sequence[Measurement],
    zero_shot: Sequence[Measurement],
    trivial: tuple[str, ...],
    seed: int,
) -> Footprint:
    """Component repair of a prompt-tuned delivery; each without and with the trigger, the second with the
    delivery's own towers answering zero-shot."""
    events = [delivered[1].events, delivered[0].events, zero_shot[1].events, zero_shot[0].events]
    rates = [rate(each) for each in events]
    label = repair_label(*(each.value for each in rates))
    share = repair_agreement(events, label, seed=seed)
    published, reason = label, _SAID[label]
    if label is Label.AMBIGUOUS:
        alone = rates[1] if rates[1].value > rates[2].value else rates[2]
        whose = "the prompts" if alone is rates[1] else "the trigger"
        reason = f"{whose} alone keep{'' if alone is rates[1] else 's'} {alone.value:.1%}"
    if share < STABLE:
        reason, label = f"{label}, but in {share:.0%} of resamples only", Label.UNSTABLE
    elif label is Label.COUPLED:
        label = Label.MECHANISM
    return Footprint(
        trigger=trigger,
        interface=interface,
        probe="component repair",
        label=label,
        paper_label=published,
        reason=reason,
        n=len(events[0]),
        rates=dict(zip(REPAIRS, rates, strict=True)),
        ratios={"sigma": abs(rates[0].value - rates[3].value)},
        agreement=share,
        trivial=trivial,
    )


def smallest_parts(
    suspect: Suspect,
    reference: Suspect,
    none: float,
    everything: float,
    measure: Callable[[Suspect], Rate],
) -> tuple[tuple[str, ...], Rate | None]:
    """A smallest set of parts of the suspect, on the reference, that brings back 90% of the effect.

    Greedy: the part that brings most is added until enough is back, then each is left out again if it can
    be. `none` and `everything` are the rates of the reference and of the suspect with the trigger. Nothing
    when there is no effect, or the models are not built alike.
    """
    gap = everything - none
    if abs(gap) < WEAK:
        return (), None
    candidates = _candidates(suspect, reference)

    def back(found: Rate) -> float:
        return (found.value - none) / gap

    def with_parts(names: Sequence[str]) -> Rate:
        chosen: dict[str, list[str]] = {"visual": [], "textual": []}
        for name in names:
            chosen[name.split()[0]] += candidates[name]
        return measure(swap_parts(suspect, reference, chosen))

    taken: list[str] = []
    reached: Rate | None = None
    while len(taken) < len(candidates):
        tried = {name: with_parts([*taken, name]) for name in candidates if name not in taken}
        best = max(tried, key=lambda name: back(tried[name]))
        taken, reached = [*taken, best], tried[best]
        if back(reached) >= RECOVERED:
            break
    for name in list(taken[:-1]):
        without = [other for other in taken if other != name]
        if back(fewer := with_parts(without)) >= RECOVERED:
            taken, reached = without, fewer
    return (tuple(taken), reached) if reached is not None and back(reached) >= RECOVERED else ((), None)


def _candidates(suspect: Suspect, reference: Suspect) -> dict[str, tuple[str, ...]]:
    """The parts of the branches that differ, `visual blocks 1/4` and so on, to their weights."""
    found = {}
    for branch, ours, theirs in branch_pairs(suspect, reference):
        if ours.digest == theirs.digest:
            continue
        state, other = branch_state(ours), branch_state(theirs)
        if any(name not in other or other[name].shape != state[name].shape for name in state):
            return {}
        for part, names in parts_of(state).items():
            if any(not state[name].equal(other[name]) for name in names):
                found[f"{branch} {part}"] = names
    return found
