"""What repairs did to the models of a bench."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import mean

import attrs

from clipsec.bench._bench import Bench
from clipsec.results import RepairOutcome
from clipsec.stats import Proportion, proportion


@attrs.frozen(kw_only=True)
class RepairLine:
    """What one repair did to one poisoned model that counts."""

    model: str
    half: str
    attack: str
    repair: str
    state: str
    """`repaired`, `not repaired`, `inconclusive`, `failed`, `missing`, or `not found` when the detector it
    starts from found nothing."""
    reason: str = ""
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    success_before: float | None = None
    """Of the attacker's own trigger, on held-out pictures; of several, the one that most is left of."""
    success_after: float | None = None
    seconds: float | None = None
    folder: str = ""


@attrs.frozen(kw_only=True)
class RepairRow:
    """A repair on the models of one half, of one attack or of all."""

    half: str
    repair: str
    attack: str
    """`all` for every attack."""
    repaired: Proportion
    """Of the poisoned models that count, those that the detector found and the repair mended."""
    tried: int
    """Models that a repair came to an end on. The means below are over these."""
    accuracy_before: float | None
    accuracy_after: float | None
    success_before: float | None
    success_after: float | None


def repair_rows(lines: Sequence[RepairLine]) -> list[RepairRow]:
    """The same by half, repair and attack, those of all attacks first."""
    groups: dict[tuple[str, str, str], list[RepairLine]] = {}
    for line in lines:
        if line.state != "missing":
            for attack in ("all", line.attack):
                groups.setdefault((line.half, line.repair, attack), []).append(line)
    return [
        RepairRow(
            half=half,
            repair=repair,
            attack=attack,
            repaired=proportion(sum(one.state == RepairOutcome.REPAIRED for one in group), len(group)),
            tried=sum(one.accuracy_after is not None for one in group),
            accuracy_before=_mean(one.accuracy_before for one in group),
            accuracy_after=_mean(one.accuracy_after for one in group),
            success_before=_mean(one.success_before for one in group),
            success_after=_mean(one.success_after for one in group),
        )
        for (half, repair, attack), group in groups.items()
    ]


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def repair_lines(bench: Bench, counted: Collection[str]) -> Iterator[RepairLine]:
    """One line for each repair and each poisoned model that counts."""
    for variant in bench.plan.repairs:
        for model in bench.plan.models:
            if model.clean or model.name not in counted:
                continue
            line = RepairLine(
                model=model.name,
                half=model.half,
                attack=model.attack,
                repair=variant.label,
                state=bench.repair_state(model, variant),
            )
            entry, result = bench.repair_entry(model, variant), bench.repaired(model, variant)
            if entry is not None and result is None:
                line = attrs.evolve(line, reason=entry.reason, seconds=entry.seconds)
            elif result is not None:
                planted = max(
                    (trigger.success for trigger in result.triggers if trigger.planted),
                    key=lambda success: success.after.value,
                    default=None,
                )
                line = attrs.evolve(
                    line,
                    reason=result.summary,
                    accuracy_before=result.accuracy.before.value if result.accuracy else None,
                    accuracy_after=result.accuracy.after.value if result.accuracy else None,
                    success_before=planted.before.value if planted else None,
                    success_after=planted.after.value if planted else None,
                    seconds=result.seconds,
                    folder=f"repaired/{Path(result.folder).name}" if result.folder else "",
                )
            yield line
