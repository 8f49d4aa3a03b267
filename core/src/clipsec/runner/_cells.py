"""Cells of an exposure matrix: from measurements, or from the reason why there are none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import attrs

from clipsec.errors import NotApplicableError
from clipsec.exposure import Limits, Outcomes, estimate, status_of
from clipsec.protocols import CaptionTrigger, Context, Need, Trigger, channel_of, not_eligible
from clipsec.results import Cell, CellState, Estimate, Measurement, Status
from clipsec.runner._interfaces import ChosenInterface
from clipsec.stats import holm
from clipsec.store import safe_name


@attrs.frozen(eq=False)
class Measured:
    """What came of an interface: without and with the trigger, on the suspect and the reference."""

    chosen: ChosenInterface
    suspect: Sequence[Measurement] | None = None
    reference: Sequence[Measurement] | None = None
    """None when there is none, or it computes the same."""
    error: BaseException | None = None
    identical: bool = False


def empty_cell(
    chosen: ChosenInterface,
    position: int,
    trigger: Trigger | CaptionTrigger,
    state: CellState,
    reason: str,
) -> Cell:
    """A cell without a number."""
    cell = Cell(
        interface=chosen.name,
        version=chosen.record.version,
        trigger=position,
        state=state,
        reason=reason,
    )
    return cell if chosen.plugin is None else _with_card(cell, chosen, trigger)


def cells_of_row(
    position: int,
    trigger: Trigger | CaptionTrigger,
    measured: Sequence[Measured],
    limits: Limits,
    seed: int,
) -> list[Cell]:
    """The cells of one trigger; p-values are corrected over those that have one."""
    found = [_estimate(each, seed) for each in measured]
    numbers = [each for each in found if each is not None]
    adjusted = iter(holm([each.p_value for each in numbers]))
    corrected = [None if e is None else attrs.evolve(e, adjusted_p=next(adjusted)) for e in found]
    return [
        _cell(each, number, position, trigger, limits)
        for each, number in zip(measured, corrected, strict=True)
    ]


def _estimate(each: Measured, seed: int) -> Estimate | None:
    if each.suspect is None:
        return None
    clean, attack = each.suspect
    if each.reference is None:
        return estimate(Outcomes(attack=attack, clean=clean), seed=seed)
    reference_clean, reference_attack = each.reference
    outcomes = Outcomes(
        attack=attack, clean=clean, reference_attack=reference_attack, reference_clean=reference_clean
    )
    return estimate(outcomes, seed=seed)


def _cell(
    each: Measured, number: Estimate | None, position: int, trigger: Trigger | CaptionTrigger, limits: Limits
) -> Cell:
    if number is None or each.suspect is None:
        error = each.error
        left_out = isinstance(error, NotApplicableError)
        reason = str(error) if left_out else f"{type(error).__name__}: {error}"
        state = CellState.NOT_RUN if left_out else CellState.ERROR
        return empty_cell(each.chosen, position, trigger, state, reason)
    status, reason = status_of(number, limits)
    if each.identical:
        status = Status.IDENTICAL
        reason = "what it reads is the reference's own, bit for bit: the rate is that of an honest model"
    cell = Cell(
        interface=each.chosen.name,
        version=each.chosen.record.version,
        trigger=position,
        state=CellState.MEASURED,
        reason=reason,
        status=status,
        estimate=number,
        options=attrs.asdict(each.chosen.options),
        notes=each.suspect[0].notes,
    )
    return _with_card(cell, each.chosen, trigger)


def _with_card(cell: Cell, chosen: ChosenInterface, trigger: Trigger | CaptionTrigger) -> Cell:
    card = chosen.card
    channel = channel_of(card, trigger)
    return attrs.evolve(
        cell,
        channel="" if channel is None else str(channel),
        readout=str(card.readout),
        event=card.event,
        population=card.population,
        reference=card.reference,
        metric=card.metric,
    )


_ASK = {
    Need.LABELS: "bring labelled pictures with --labelled",
    Need.IMAGE_POOL: "bring unlabelled pictures with --pool",
    Need.CLEAN_REFERENCE: "name the clean model with --reference",
}


def nothing_for(
    each: ChosenInterface, trigger: Trigger | CaptionTrigger, context: Context
) -> tuple[CellState | None, str]:
    """Why an interface has no number for this trigger, before it is run; (None, "") when it can have one."""
    if each.state is not None:
        return each.state, each.reason
    suspect = context.suspect
    reason = not_eligible(each.card, trigger, suspect.provides, suspect.class_names)
    if reason is not None:
        return CellState.NOT_ELIGIBLE, reason
    given = {
        Need.LABELS: context.held_out is not None,
        Need.IMAGE_POOL: context.pool is not None,
        Need.CLEAN_REFERENCE: context.reference is not None,
    }
    lacking = sorted(need for need in each.plugin.needs if not given.get(need, True))
    unmet = sorted(set(each.plugin.needs) - set(given) - set(suspect.provides))
    if lacking:
        return CellState.MISSING, f"it needs {', '.join(lacking)}: {_ASK[lacking[0]]}"
    if unmet:
        return CellState.NOT_ELIGIBLE, f"it needs {', '.join(unmet)}, which the model has not"
    return None, ""


def with_cases(
    cell: Cell, trigger: Trigger | CaptionTrigger, found: Measured, context: Context
) -> tuple[Cell, bytes]:
    """The cell with the name and digest of the file that says which rows it used, and the file's content."""
    if found.suspect is None:
        return cell, b""
    sources = {
        "labelled": context.labelled,
        "held_out": context.held_out,
        "pool": context.pool,
        "captions": context.captions,
    }
    body = {
        "format": "clipsec cases",
        "version": "1.0",
        "interface": cell.interface,
        "trigger": trigger.digest,
        "seed": context.seed,
        "data": {name: "" if source is None else source.digest for name, source in sources.items()},
        "rows": {name: list(map(int, rows)) for name, rows in sorted(found.suspect[0].index.items())},
    }
    content = (json.dumps(body, sort_keys=True) + "\n").encode()
    name = f"pools/{cell.trigger}-{safe_name(cell.interface)}.json"
    return attrs.evolve(cell, pools=name, pools_digest=hashlib.sha256(content).hexdigest()), content
