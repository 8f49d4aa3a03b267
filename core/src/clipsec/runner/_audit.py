"""Run detectors on a suspect: isolated from each other, resumable, with provenance."""

from __future__ import annotations

import datetime
import inspect
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import platformdirs
import torch

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.errors import ClipsecError, ContractError, NotApplicableError
from clipsec.models import Suspect, load_suspect, sanity_gate
from clipsec.protocols import Context, Need
from clipsec.reports import render_html
from clipsec.results import (
    Cost,
    ErrorRecord,
    GateResult,
    Outcome,
    Provenance,
    RunResult,
    Verdict,
    verdict_from_json,
    verdict_to_json,
)
from clipsec.runner._detectors import Chosen, choose_detectors, missing_needs
from clipsec.runner._environment import environment
from clipsec.scheduler import Done, FeatureCache, Problem, Scheduler
from clipsec.store import RunStore, UnitStore, atomic_write, content_key
from clipsec_registry import Registry, find_lock

VERDICT_UNIT = "verdict"
REPORT_FILE = "report.html"


def default_shared_folder() -> Path:
    """Where results that several runs may reuse are kept: the user's cache folder."""
    return Path(platformdirs.user_cache_dir("clipsec")) / "shared"


def audit(
    suspect: Suspect | str,
    *,
    pool: ImagePool | str | Path | None = None,
    detectors: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    reference: Suspect | None = None,
    labelled: LabelledSet | None = None,
    runs: str | Path = "runs",
    seed: int = 0,
    search_dtype: torch.dtype = torch.bfloat16,
    registry: Registry | None = None,
    scheduler: Scheduler | None = None,
    shared: str | Path | None = None,
    fresh: bool = False,
    on_progress: Callable[[str, float, str], None] = lambda detector, fraction, what: None,
) -> RunResult:
    """Inspect one suspect with every installed detector, or with the named ones.

    Nothing that one detector does costs another its verdict: a crash is an `error` verdict, a missing need a
    `skipped` one. Verdicts and their finished parts are stored below `runs` by content key, so a killed audit
    goes on where it was; `fresh` ignores what is stored. The result is written there, to `run.json` and
    `report.html`.

    Raises `ModelError`, `DataError`, `UsageError` or `StoreError` when the audit cannot start, and whatever
    `KeyboardInterrupt` interrupts, after closing every detector.
    """
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    if isinstance(suspect, str):
        suspect = load_suspect(suspect)
    if isinstance(pool, str | Path):
        pool = ImagePool.from_folder(pool)
    chosen = choose_detectors(registry or Registry(lock=find_lock()), detectors, options or {})
    scheduler = scheduler or Scheduler(cache=FeatureCache())
    shared_units = UnitStore(Path(shared) if shared is not None else default_shared_folder())
    gate = sanity_gate(suspect, pictures=_gate_pictures(suspect, pool))
    key = content_key(
        suspect=suspect.digest,
        pool="" if pool is None else pool.digest,
        reference="" if reference is None else reference.digest,
        seed=seed,
    )
    with ExitStack() as stack:
        run = stack.enter_context(RunStore(runs).open(suspect.name, key))
        tasks = []
        for detector in chosen:
            context = None
            if detector.problem is None:
                provenance = _provenance(detector, suspect, pool, reference, labelled, seed, search_dtype)
                folder = run.verdict_folder(detector.name, provenance.key)
                units, shared_by = UnitStore(folder / "units"), shared_units
                if detector.record.local:
                    # Nothing of an unpackaged file is reused: what it stores ends with the run.
                    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="clipsec-local-")))
                    units, shared_by = UnitStore(scratch / "units"), UnitStore(scratch / "shared")
                context = Context(
                    suspect=suspect,
                    options=detector.options,
                    scheduler=scheduler,
                    units=units,
                    shared=shared_by,
                    folder=folder,
                    pool=pool,
                    labelled=labelled,
                    reference=reference,
                    seed=seed,
                    search_dtype=search_dtype,
                    progress=_progress(on_progress, detector.name),
                )
                tasks.append(_Task(detector, context, provenance, run.folder))
            else:
                tasks.append(_Task(detector, None, None, run.folder))
        offered = _offered(suspect, pool, labelled, reference)
        verdicts = _run_all(tasks, scheduler, offered, gate, fresh)
        result = RunResult(
            suspect=suspect.card,
            verdicts=verdicts,
            gate=gate,
            environment=environment(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
            folder=str(run.folder),
        )
        run.write_result(result)
        atomic_write(run.folder / REPORT_FILE, render_html(result, run.folder).encode())
    return result


GATE_PICTURES = 8
"""Pictures of the pool that the sanity gate sees beside its own synthetic ones."""


def _gate_pictures(suspect: Suspect, pool: ImagePool | None) -> torch.Tensor | None:
    if pool is None or suspect.base.visual is None:
        return None
    return to_unit(pool.pixels(suspect.base.visual.spec)[:GATE_PICTURES])


@attrs.define(eq=False)
class _Task:
    """One detector on one suspect."""

    chosen: Chosen
    context: Context | None
    provenance: Provenance | None
    run_folder: Path
    seconds: float = 0.0


def _run_all(
    tasks: Sequence[_Task], scheduler: Scheduler, offered: frozenset[Need], gate: GateResult, fresh: bool
) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    problems: list[tuple[str, Problem]] = []
    by_name = {task.chosen.name: task for task in tasks}
    for task in tasks:
        name = task.chosen.name
        verdict = task.chosen.problem or _cannot_run(task, offered) or (None if fresh else _stored(task))
        if verdict is None:
            if fresh and task.context is not None:
                task.context.units.clear()
            problems.append((name, _as_problem(task)))
        else:
            verdicts[name] = verdict
    for done in scheduler.as_completed(problems, session=str):
        task = by_name[str(done.tag)]
        verdict = _finished(task, done, scheduler)
        if not gate.passed:
            verdict = _distrust(verdict, gate)
        elif verdict.outcome is not Outcome.ERROR and task.context is not None:
            task.context.units.save(VERDICT_UNIT, verdict_to_json(verdict))
        verdicts[str(done.tag)] = verdict
    return {task.chosen.name: _flagged(task.chosen, verdicts[task.chosen.name]) for task in tasks}


def _flagged(chosen: Chosen, verdict: Verdict) -> Verdict:
    """Every format shows the notes, so every report says which check is nobody's installed plugin."""
    if not chosen.record.local:
        return verdict
    note = (
        f"local check: from an unpackaged file ({chosen.record.version[:19]}), not an installed plugin; "
        "nothing of it is kept for later runs"
    )
    return attrs.evolve(verdict, notes=(note, *verdict.notes))


def _as_problem(task: _Task) -> Problem:
    """The detector as a scheduler problem, whether it is a generator or a plain function."""
    began = time.monotonic()
    try:
        answer = task.chosen.plugin().detect(task.context)
        if inspect.isgenerator(answer):
            answer = yield from answer
        return answer
    except SystemExit as stop:
        # A plugin may not end the program; only Ctrl-C does.
        raise ContractError(
            f"the detector called sys.exit({stop.code!r})", remedy="Report this to its author."
        ) from stop
    finally:
        task.seconds = time.monotonic() - began


def _cannot_run(task: _Task, offered: frozenset[Need]) -> Verdict | None:
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


def _stored(task: _Task) -> Verdict | None:
    if task.context is None:
        return None
    unit = task.context.units.load(VERDICT_UNIT)
    if unit is None:
        return None
    try:
        return verdict_from_json(unit.data)
    except ClipsecError:
        return None


def _finished(task: _Task, done: Done, scheduler: Scheduler) -> Verdict:
    error = done.error
    if error is None:
        try:
            verdict = _checked(done.value)
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
    remedy = error.remedy if isinstance(error, ClipsecError) else "Report this to the plugin's author."
    return Verdict(
        Outcome.ERROR,
        f"{type(error).__name__}: {error}",
        cost=_cost(task, scheduler),
        provenance=task.provenance,
        error=ErrorRecord(
            type(error).__name__,
            str(error),
            remedy,
            "".join(traceback.format_exception(error)),
        ),
    )


def _checked(verdict: Any) -> Verdict:
    """Refuse what a plugin must not return; a NaN score would compare as "not above the threshold"."""
    if not isinstance(verdict, Verdict):
        raise ContractError(
            f"the detector returned {type(verdict).__name__}, not a Verdict",
            remedy="Report this to its author.",
        )
    if not isinstance(verdict.outcome, Outcome):
        raise ContractError(
            f"the detector's outcome is {verdict.outcome!r}", remedy="Report this to its author."
        )
    for number in (verdict.score, verdict.threshold):
        if number is not None and math.isnan(number):
            raise ContractError("the detector's score is not a number", remedy="Report this to its author.")
    return verdict


def _distrust(verdict: Verdict, gate: GateResult) -> Verdict:
    """A model that does not behave like the model it claims to be gets no verdict."""
    if verdict.outcome in (Outcome.ERROR, Outcome.SKIPPED):
        return verdict
    return attrs.evolve(
        verdict,
        outcome=Outcome.INCONCLUSIVE,
        summary=f"the sanity gate failed ({gate.reason}); the detector itself said {verdict.outcome}",
    )


def _in_run(artifacts: Sequence[Any], task: _Task) -> tuple[Any, ...]:
    assert task.context is not None
    place = task.context.folder.relative_to(task.run_folder)
    return tuple(attrs.evolve(item, path=(place / item.path).as_posix()) for item in artifacts)


def _cost(task: _Task, scheduler: Scheduler) -> Cost:
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


def _offered(
    suspect: Suspect, pool: ImagePool | None, labelled: LabelledSet | None, reference: Suspect | None
) -> frozenset[Need]:
    offered = set(suspect.provides)
    if pool is not None:
        offered.add(Need.IMAGE_POOL)
    if labelled is not None:
        offered.add(Need.LABELS)
    if reference is not None:
        offered.add(Need.CLEAN_REFERENCE)
    return frozenset(offered)


def _provenance(
    detector: Chosen,
    suspect: Suspect,
    pool: ImagePool | None,
    reference: Suspect | None,
    labelled: LabelledSet | None,
    seed: int,
    search_dtype: torch.dtype,
) -> Provenance:
    options = attrs.asdict(detector.options)
    data = content_key(
        pool="" if pool is None else pool.digest,
        labelled="" if labelled is None else labelled.digest,
        reference="" if reference is None else reference.digest,
    )
    search, decision = str(search_dtype).removeprefix("torch."), "float32"
    record = detector.record
    key = content_key(
        detector=record.canonical_name,
        version=record.version,
        code=record.digest,
        suspect=suspect.digest,
        data=data,
        options=options,
        seed=seed,
        dtypes=[search, decision],
    )
    return Provenance(
        detector=record.canonical_name,
        distribution=record.distribution,
        version=record.version,
        key=key,
        options=options,
        seed=seed,
        search_dtype=search,
        decision_dtype=decision,
        suspect_digest=suspect.digest,
        data_digest=data,
    )


def _progress(tell: Callable[[str, float, str], None], name: str) -> Callable[[float, str], None]:
    return lambda fraction, what: tell(name, fraction, what)
