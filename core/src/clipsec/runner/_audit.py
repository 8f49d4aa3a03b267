"""Run detectors on a suspect: isolated from each other, resumable, with provenance."""

from __future__ import annotations

import datetime
import inspect
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs
import torch

from clipsec.data import ImagePool, LabelledSet
from clipsec.errors import ContractError, StoreError
from clipsec.isolation import Limits, isolated_problem
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Context, Need
from clipsec.reports import render_html
from clipsec.results import GateResult, Outcome, Provenance, RunResult, Verdict
from clipsec.runner._detectors import Chosen, choose_detectors, described
from clipsec.runner._environment import environment
from clipsec.runner._gate import gate_of
from clipsec.runner._guard import JournalledUnits, TowerGuard
from clipsec.runner._isolated import Workers, local_folder
from clipsec.runner._verdicts import Task, annotated, cannot_run, finished, stored
from clipsec.scheduler import Done, FeatureCache, Problem, Scheduler
from clipsec.store import RunStore, UnitStore, atomic_write, content_key
from clipsec_registry import Registry, find_lock

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
    isolate: bool | Collection[str] = False,
    limits: Limits | None = None,
    on_progress: Callable[[str, float, str], None] = lambda detector, fraction, what: None,
) -> RunResult:
    """Inspect one suspect with every installed detector, or with the named ones.

    Nothing that one detector does costs another its verdict: a crash is an `error` verdict, a missing need a
    `skipped` one. Verdicts and their finished parts are stored below `runs` by content key, so a killed audit
    goes on where it was; `fresh` ignores what is stored. The result is written there, to `run.json` and
    `report.html`.

    The sanity gate measures zero-shot accuracy on `labelled`, else on labelled pictures that an installed
    plugin ships; a model that could do as well by guessing makes every verdict inconclusive.

    Detectors named in `isolate` (True: all), and those that say so themselves, run in processes of their own
    under `limits`.

    Raises `ModelError`, `DataError`, `UsageError` or `StoreError` when the audit cannot start, and whatever
    `KeyboardInterrupt` interrupts, after closing every detector.
    """
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    if isinstance(suspect, str):
        suspect = load_suspect(suspect)
    if isinstance(pool, str | Path):
        pool = ImagePool.from_folder(pool)
    registry = registry or Registry(lock=find_lock())
    scheduler = scheduler or Scheduler(cache=FeatureCache())
    shared_units = JournalledUnits(Path(shared) if shared is not None else usable_shared_folder(runs))
    key = content_key(
        suspect=suspect.digest,
        pool="" if pool is None else pool.digest,
        reference="" if reference is None else reference.digest,
        seed=seed,
    )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="clipsec-local-")))
        store = RunStore(runs)
        workers = Workers(isolate, limits or Limits(), store.run(suspect.name, key), shared_units, scratch)
        stack.callback(workers.close)
        # Workers import torch and their plugins while this process looks at the pool and the suspect.
        guard = TowerGuard(suspect, reference)
        guard.seal()
        chosen = choose_detectors(registry, detectors, options or {}, workers.start)
        workers.check_names(chosen)
        gate = gate_of(suspect, pool, labelled, registry)
        run = stack.enter_context(store.open(suspect.name, key))
        chosen = [described(registry, each, named=bool(detectors)) for each in chosen]
        tasks = []
        for detector in chosen:
            context = None
            if detector.problem is None:
                provenance = _provenance(detector, suspect, pool, reference, labelled, seed, search_dtype)
                own_name = detector.record.canonical_name
                folder = run.verdict_folder(own_name, provenance.key)
                units: UnitStore = UnitStore(folder / "units")
                shared_by: UnitStore = shared_units
                if detector.record.local:
                    # Nothing of an unpackaged file is reused: what it stores ends with the run.
                    own = local_folder(scratch, own_name)
                    units = UnitStore(own / provenance.key[:16] / "units")
                    shared_by = UnitStore(own / "shared")
                kept = detector.worker is None or detector.record.local
                answers = units if kept else run.answers(own_name, provenance.key)
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
                tasks.append(Task(detector, context, provenance, run.folder, answers))
            else:
                tasks.append(Task(detector, None, None, run.folder))
        offered = _offered(suspect, pool, labelled, reference)
        verdicts = _run_all(tasks, scheduler, offered, gate, fresh, guard, shared_units)
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
        _write_report(result, run.folder)
    return result


def usable_shared_folder(beside: str | Path) -> Path:
    """The user's cache, or a folder in `beside` where that cannot be written, e.g. in a container."""
    folder = default_shared_folder()
    # Not Path.exists, which raises where a parent may not be searched.
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return folder if usable else Path(beside) / ".shared"


def _write_report(result: RunResult, folder: Path) -> None:
    """The page. Where it cannot be written, the user is told that the result was."""
    try:
        atomic_write(folder / REPORT_FILE, render_html(result, folder).encode())
    except StoreError as error:
        raise StoreError(
            f"{error.message}; the result itself is stored",
            remedy=f"{error.remedy} Until then `clipsec report {folder}` shows it.",
        ) from error


def _run_all(
    tasks: Sequence[Task],
    scheduler: Scheduler,
    offered: frozenset[Need],
    gate: GateResult,
    fresh: bool,
    guard: TowerGuard,
    shared: JournalledUnits,
) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    running: dict[str, Task] = {}
    for task in tasks:
        name = task.chosen.name
        verdict = task.chosen.problem or cannot_run(task, offered) or (None if fresh else stored(task))
        if verdict is None:
            if fresh:
                task.forget()
            running[name] = task
        else:
            verdicts[name] = verdict
    problems = [(name, _as_problem(task)) for name, task in running.items()]
    with closing(scheduler.as_completed(problems, session=str)) as completed:
        for done in completed:
            in_here = [name for name, task in running.items() if task.chosen.worker is None]
            if in_here and (spoilt := guard.complaint(in_here)) is not None:
                break
            shared.trust()
            task = running.pop(str(done.tag))
            verdict = finished(task, done, scheduler)
            if gate.passed and verdict.outcome is not Outcome.ERROR:
                task.save(verdict)
            verdicts[task.chosen.name] = verdict
    if running:
        shared.undo()
        scheduler.forget_features()
    for name, task in running.items():
        task.forget()
        verdicts[name] = finished(task, Done(name, error=spoilt), scheduler)
    return {task.chosen.name: annotated(task, verdicts[task.chosen.name]) for task in tasks}


def _as_problem(task: Task) -> Problem:
    """The detector as a scheduler problem, whether it is a generator or a plain function."""
    began = time.monotonic()
    try:
        if task.chosen.worker is not None:
            assert task.context is not None
            return (yield from isolated_problem(task.chosen.worker, task.context))
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
    options = detector.option_values
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
        code=record.code_digest,
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
