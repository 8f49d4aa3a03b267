"""From how a detector's problem ended to its verdict."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from clipsec.error_rates import error_rate_line
from clipsec.errors import ClipsecError, ContractError, NotApplicableError
from clipsec.isolation._proxy import RelayedError
from clipsec.protocols import Context, Need
from clipsec.results import (
    Cost,
    ErrorRecord,
    Outcome,
    Provenance,
    Verdict,
    check_verdict,
    verdict_from_json,
    verdict_to_json,
)
from clipsec.runner._detectors import Chosen, missing_needs
from clipsec.scheduler import Done, Scheduler
from clipsec.store import UnitStore

VERDICT_UNIT = "verdict"
_NOT_OURS = "Report this to the plugin's author."


@attrs.define(eq=False)
class Task:
    """One detector on one suspect."""

    chosen: Chosen
    context: Context | None
    provenance: Provenance | None
    run_folder: Path
    answers: UnitStore | None = None
    """Where the verdict itself is stored."""
    seconds: float = 0.0

    def save(self, verdict: Verdict) -> None:
        """Store the verdict, so that a later run need not ask again."""
        if self.answers is not None:
            self.answers.save(VERDICT_UNIT, verdict_to_json(verdict))

    def forget(self) -> None:
        """Remove the stored verdict and its finished parts."""
        if self.answers is not None and self.context is not None:
            self.answers.clear()
            self.context.units.clear()


def cannot_run(task: Task, offered: frozenset[Need]) -> Verdict | None:
    """The verdict on a task that needs what the run does not offer."""
    missing = missing_needs(task.chosen.plugin, offered)
    if not missing:
        return None
    return Verdict(
        Outcome.SKIPPED,
        f"needs {', '.join(missing)}, which this run does not offer",
        notes=tuple(_HOW_TO_OFFER[need] for need in missing if need in _HOW_TO_OFFER),
        provenance=task.provenance,
    )


_HOW_TO_OFFER = {
    Need.CLASS_NAMES: "Name the classes with --classes FILE, one a line.",
    Need.CLEAN_REFERENCE: "Name a clean model of the same kind with --reference.",
    Need.IMAGE_POOL: "Name a folder of unlabelled pictures with --pool.",
    Need.LABELS: "Name a labelled set with --labelled FOLDER (FOLDER/CLASS/picture).",
}


def stored(task: Task) -> Verdict | None:
    """The verdict of an earlier run, if there is one."""
    if task.answers is None:
        return None
    unit = task.answers.load(VERDICT_UNIT)
    if unit is None:
        return None
    try:
        return verdict_from_json(unit.data)
    except ClipsecError:
        return None


def finished(task: Task, done: Done, scheduler: Scheduler) -> Verdict:
    """The verdict on a task whose problem has ended, whatever it ended with."""
    error = done.error
    if error is None:
        try:
            verdict = check_verdict(done.value)
        except ContractError as broken:
            error = broken
        else:
            return attrs.evolve(
                verdict,
                cost=_cost(task, scheduler),
                provenance=task.provenance,
                evidence=tuple(
                    attrs.evolve(item, artifacts=_in_run(item.artifacts, task)) for item in verdict.evidence
                ),
                artifacts=_in_run(verdict.artifacts, task),
            )
    if isinstance(error, NotApplicableError):
        return Verdict(Outcome.SKIPPED, error.message, notes=(error.remedy,), provenance=task.provenance)
    record = error_record(error)
    worker = task.chosen.worker
    if worker is not None and worker.output:
        printed = f"{record.traceback}\nWhat it printed, the end of it:\n{worker.output[-4000:]}"
        record = attrs.evolve(record, traceback=printed.lstrip())
    return Verdict(
        Outcome.ERROR,
        f"{record.type}: {record.message}",
        cost=_cost(task, scheduler),
        provenance=task.provenance,
        error=record,
    )


def error_record(error: BaseException) -> ErrorRecord:
    """What is kept of an exception."""
    remedy = error.remedy if isinstance(error, ClipsecError) else _NOT_OURS
    if isinstance(error, RelayedError):
        return ErrorRecord(error.name, str(error), remedy, error.trace)
    trace = "".join(traceback.format_exception(error))
    return ErrorRecord(type(error).__name__, str(error), remedy, trace)


def _in_run(artifacts: Sequence[Any], task: Task) -> tuple[Any, ...]:
    assert task.context is not None
    place = task.context.folder.relative_to(task.run_folder)
    return tuple(attrs.evolve(item, path=(place / item.path).as_posix()) for item in artifacts)


def _cost(task: Task, scheduler: Scheduler) -> Cost:
    counts = scheduler.counts(task.chosen.name)
    return Cost(
        seconds=round(task.seconds, 3),
        forward_rows=counts.forward_rows,
        backward_rows=counts.backward_rows,
        cached_rows=counts.cached_rows,
        peak_memory_bytes=counts.peak_memory_bytes,
        micro_batches=dict(counts.micro_batches),
        degraded=bool(counts.degraded),
    )


def annotated(task: Task, verdict: Verdict) -> Verdict:
    """The verdict with what every report must say of the check itself: that it is nobody's installed plugin,
    and how often it is right. Every format shows the notes."""
    record, error, notes = task.chosen.record, verdict.error, []
    if record.local:
        notes.append(
            f"local check: from an unpackaged file ({record.version[:19]}), not an installed plugin; "
            "nothing of it is kept for later runs"
        )
        if error is not None and error.remedy == _NOT_OURS:
            # Who names a file is its author.
            error = attrs.evolve(
                error, remedy="Mend the file; the report, and --verbose, show the traceback."
            )
    if verdict.outcome.is_answer and verdict.provenance is not None and task.context is not None:
        base = task.context.suspect.base.digest
        notes.append(error_rate_line(record, verdict.provenance.options, base))
    return attrs.evolve(verdict, notes=(*filter(None, notes), *verdict.notes), error=error)
