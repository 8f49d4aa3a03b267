"""Repair a suspect with what a detector found, measure what that did, and keep it only if it worked."""

from __future__ import annotations

import contextlib
import datetime
import inspect
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.errors import ClipsecError, ContractError, DataError, StoreError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Context, Need, Trigger, derived_seed, found_triggers
from clipsec.results import (
    BeforeAfter,
    Outcome,
    Rate,
    RepairOutcome,
    RepairResult,
    RunResult,
    TriggerRates,
    Verdict,
    judge_repair,
    repair_to_text,
)
from clipsec.runner._audit import default_shared_folder
from clipsec.runner._environment import environment
from clipsec.runner._plugin_options import make_options
from clipsec.scheduler import FeatureCache, Problem, Scheduler
from clipsec.stats import wilson
from clipsec.store import UnitStore, atomic_write, read_run
from clipsec_registry import PluginError, PluginRecord, Registry, find_lock

KIND = "repairs"
RECORD = "repair.json"
HELD_OUT_SHARE = 0.4
"""Of the labelled pictures, when no others are given to measure on: 35 without a single success are what it
takes to say that less than 10% is left."""


def repair(
    suspect: Suspect | str,
    *,
    finding: RunResult | str | Path,
    labelled: LabelledSet | str | Path,
    output: str | Path,
    held_out: LabelledSet | str | Path | None = None,
    plugin: str = "",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    detector: str = "",
    trigger: Trigger | Sequence[Trigger] | None = None,
    pool: ImagePool | str | Path | None = None,
    goal: float = 0.05,
    allowed_drop: float = 0.01,
    seed: int = 0,
    search_dtype: torch.dtype = torch.bfloat16,
    registry: Registry | None = None,
    scheduler: Scheduler | None = None,
    shared: str | Path | None = None,
    on_progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> RepairResult:
    """Make a repaired delivery from a suspect and the run that found its backdoor.

    The repair plugin sees `labelled` (pictures with true labels), the finding and the pool. Neither what is
    measured on (`held_out`; without it, a share of `labelled` that is set apart) nor the attacker's `trigger`
    (or triggers) is shown to it. The delivery is loaded again and measured as a user would get it. It is
    moved to `output`, with the record in `repair.json`, only when `judge_repair` calls it repaired; `output`
    is then complete, and in every other case it is not there.

    `plugin` and `detector` choose where there are several. Raises `UsageError` for a finding about another
    model, for labels that are not this model's and for an output that exists; `DetectionError` when the
    plugin fails; `ModelError`, `DataError` or `StoreError`.
    """
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    place = Path(output).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{output} exists already", remedy="Choose another folder, or remove it.")
    registry = registry or Registry(lock=find_lock())
    if isinstance(suspect, str):
        suspect = load_suspect(suspect, registry=registry)
    run = finding if isinstance(finding, RunResult) else read_run(finding)
    verdict = choose_finding(run, suspect, detector)
    record, made, plugin_options = choose_repair(registry, plugin, options or {})
    train, test = _pictures(suspect, labelled, held_out, seed)
    pool = ImagePool.from_folder(pool) if isinstance(pool, str | Path) else pool
    _check_needs(record, made, suspect, pool)
    scheduler = scheduler or Scheduler(cache=FeatureCache())
    planted = [trigger] if isinstance(trigger, Trigger) else list(trigger or ())
    triggers = _triggers(suspect, verdict, run.folder, planted)
    before = measure_rates(scheduler, suspect, test, [each for each, _ in triggers])
    base = measure_rates(scheduler, suspect, test, [each for each, _ in triggers], zero_shot=True)
    _check_labels(before[0], len(suspect.class_names))
    with _staging(place) as staging:
        context = Context(
            suspect=suspect,
            options=plugin_options,
            scheduler=scheduler,
            units=UnitStore(staging / "work" / "units"),
            shared=UnitStore(Path(shared) if shared is not None else default_shared_folder()),
            folder=staging / "work",
            pool=pool,
            labelled=train,
            finding=verdict,
            finding_folder=Path(run.folder),
            output=staging / "repaired",
            seed=seed,
            search_dtype=search_dtype,
            progress=on_progress,
        )
        delivery = _run_plugin(record, made, context, staging)
        repaired = load_suspect(
            str(delivery), class_names=suspect.class_names, device=str(suspect.device), registry=registry
        )
        after = measure_rates(scheduler, repaired, test, [each for each, _ in triggers])
        accuracy, *successes = (BeforeAfter(*rates) for rates in zip(before, after, base, strict=True))
        rates = tuple(
            TriggerRates(each.origin, is_planted, each.target_index, each.target_name, success)
            for (each, is_planted), success in zip(triggers, successes, strict=True)
        )
        outcome, summary = judge_repair(accuracy, rates, goal=goal, allowed_drop=allowed_drop)
        result = RepairResult(
            suspect=suspect.card,
            outcome=outcome,
            summary=summary,
            accuracy=accuracy,
            triggers=rates,
            goal=goal,
            allowed_drop=allowed_drop,
            repair=record.canonical_name,
            version=record.version,
            options=attrs.asdict(plugin_options),
            seed=seed,
            finding="" if verdict.provenance is None else verdict.provenance.key,
            data={
                "labelled": train.digest,
                "held_out": test.digest,
                "pool": "" if pool is None else pool.digest,
            },
            repaired_digest=repaired.digest,
            notes=_notes(suspect, train),
            environment=environment(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
        )
        if outcome is RepairOutcome.REPAIRED:
            result = attrs.evolve(result, folder=str(place))
            atomic_write(delivery / RECORD, repair_to_text(result).encode())
            _move(delivery, place)
    return result


def choose_finding(run: RunResult, suspect: Suspect, detector: str = "") -> Verdict:
    """The verdict to repair from: the named detector's, or the only finding of the run.

    Raises `UsageError` when the run is of another model, or has no such finding.
    """
    if run.suspect.digest != suspect.digest:
        raise UsageError(
            f"the finding is about {run.suspect.name} ({run.suspect.digest[:12]}), not about {suspect.name} "
            f"({suspect.digest[:12]})",
            remedy="Name the run of this very model, or audit it: clipsec run SUSPECT.",
        )
    findings = {name: v for name, v in run.verdicts.items() if v.outcome is Outcome.FINDING}
    if not findings:
        raise UsageError(
            f"there is nothing to repair: the run says {run.outcome}",
            remedy="A repair starts from a finding; see clipsec report RUN.",
        )
    named = {name: v for name, v in findings.items() if detector in ("", name, name.rpartition("/")[2])}
    if len(named) != 1:
        what = "several detectors found something" if not detector else f"{detector} found nothing"
        raise UsageError(what, remedy=f"Choose one with --detector: {', '.join(sorted(findings))}.")
    (verdict,) = named.values()
    return verdict


def choose_repair(
    registry: Registry, name: str, options: Mapping[str, Mapping[str, Any]]
) -> tuple[PluginRecord, Any, Any]:
    """The named repair, or the only one that is installed: its record, its class, its options.

    Raises `UsageError` when it is not clear which or an option does not exist, `PluginError` when it cannot
    be loaded.
    """
    try:
        records = [registry.find(KIND, name)] if name else list(registry.records(KIND))
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    if len(records) != 1:
        names = ", ".join(sorted(record.name for record in records))
        raise UsageError(
            "several repairs are installed" if records else "no repair is installed",
            remedy=f"Choose one with --repair: {names}." if records else "Install clipsec-clip-inspector.",
        )
    (record,) = records
    for given in options:
        if given not in (record.name, record.canonical_name):
            raise UsageError(
                f"options are given for {given!r}, and the repair is {record.name}",
                remedy=f"Write {record.name}.KEY=VALUE.",
            )
    made = registry.load(record, strict=True)
    kind = getattr(made, "options", None)
    if not (callable(getattr(made, "repair", None)) and isinstance(kind, type) and attrs.has(kind)):
        raise ContractError(
            f"{record.canonical_name} is not a repair: it lacks repair(context) or options",
            remedy=f"Report it to the authors of {record.distribution}.",
        )
    values = {**options.get(record.name, {}), **options.get(record.canonical_name, {})}
    return registry.record(record), made, make_options(kind, values, record.name)


def measure_rates(
    scheduler: Scheduler,
    suspect: Suspect,
    labelled: LabelledSet,
    triggers: Sequence[Trigger],
    *,
    zero_shot: bool = False,
) -> list[Rate]:
    """Clean accuracy, then for each trigger its success on pictures of other classes; all in float32.

    `zero_shot` measures the base's own answer instead of the delivered one. Features come from the
    scheduler's cache where somebody has computed them.
    """
    tower = suspect.image_tower()
    head = suspect.zero_shot_head() if zero_shot else suspect.head()
    pixels, labels = to_unit(labelled.pixels(_spec(suspect))), labelled.label_tensor()

    def answers(pictures: Tensor) -> Tensor:
        return scheduler.encode(head, scheduler.encode(tower, pictures)).argmax(dim=1)

    rates = [_rate(answers(pixels) == labels)]
    for trigger in triggers:
        others = labels != trigger.target_index
        rates.append(_rate(answers(trigger.apply(pixels[others])) == trigger.target_index))
    return rates


def _rate(hits: Tensor) -> Rate:
    successes, n = int(hits.sum()), len(hits)
    return Rate(successes, n, wilson(successes, n))


def _spec(suspect: Suspect) -> Any:
    visual = suspect.base.visual
    if visual is None:
        raise UsageError(
            f"{suspect.name} has no image tower, so nothing can be measured on pictures",
            remedy="Repairs are for models that classify pictures.",
        )
    return visual.spec


def _pictures(
    suspect: Suspect,
    labelled: LabelledSet | str | Path,
    held_out: LabelledSet | str | Path | None,
    seed: int,
) -> tuple[LabelledSet, LabelledSet]:
    """What the repair may see and what it is measured on, both in the suspect's order of classes."""
    train = _of_classes(suspect, labelled)
    if held_out is not None:
        return train, _of_classes(suspect, held_out)
    generator = torch.Generator().manual_seed(derived_seed(seed, "held out"))
    return train.split(HELD_OUT_SHARE, generator=generator)


def _of_classes(suspect: Suspect, labelled: LabelledSet | str | Path) -> LabelledSet:
    if isinstance(labelled, str | Path):
        labelled = LabelledSet.from_folder(labelled)
    ours = labelled.for_classes(suspect.class_names)
    if len(set(ours.labels)) < 2:
        raise DataError(
            f"{labelled.name} has pictures of {len(set(ours.labels))} of the model's classes",
            remedy=f"Bring pictures of at least two of: {', '.join(suspect.class_names[:8])}"
            f"{', ...' if len(suspect.class_names) > 8 else '.'}",
        )
    return ours


def _check_labels(accuracy: Rate, classes: int) -> None:
    if accuracy.interval.high <= 0.5 and accuracy.interval.low <= 1.5 / classes:
        raise DataError(
            f"the model names the class of only {accuracy.value:.1%} of the labelled pictures",
            remedy="Check that the labels are true and that the class folders carry the model's class names.",
        )


def _check_needs(record: PluginRecord, made: Any, suspect: Suspect, pool: ImagePool | None) -> None:
    offered = {*suspect.provides, Need.LABELS, *([] if pool is None else [Need.IMAGE_POOL])}
    missing = sorted(set(made.needs) - offered)
    if missing:
        raise UsageError(
            f"{record.name} needs {', '.join(missing)}, which {suspect.name} or this command does not offer",
            remedy="Choose another repair, or name pictures with --pool if that is what is missing.",
        )


def _triggers(
    suspect: Suspect, verdict: Verdict, folder: str, planted: Sequence[Trigger]
) -> list[tuple[Trigger, bool]]:
    """What to measure with: the found triggers, then the attacker's; each with whether it is the latter."""
    triggers = [(found, False) for found in found_triggers(verdict, folder)]
    triggers += [(each, True) for each in planted]
    size = _spec(suspect).size
    for trigger, _ in triggers:
        names = suspect.class_names
        if not 0 <= trigger.target_index < len(names) or names[trigger.target_index] != trigger.target_name:
            raise UsageError(
                f"the trigger of {trigger.origin or 'the card'} aims at {trigger.target_name!r}, which is "
                f"not class {trigger.target_index} of {suspect.name}",
                remedy="Give the card and the run that belong to this model.",
            )
        if trigger.size not in (None, size):
            raise UsageError(
                f"the trigger of {trigger.origin or 'the card'} is for pictures of {trigger.size} pixels, "
                f"{suspect.name} takes {size}",
                remedy="Give the card and the run that belong to this model.",
            )
    return triggers


def _notes(suspect: Suspect, train: LabelledSet) -> tuple[str, ...]:
    missing = [name for i, name in enumerate(suspect.class_names) if i not in set(train.labels)]
    if not missing:
        return ()
    return (f"the repair saw no picture of {len(missing)} of {len(suspect.class_names)} classes",)


def _run_plugin(record: PluginRecord, made: Any, context: Context, staging: Path) -> Path:
    name = record.canonical_name
    report = f"Report it to the authors of {record.distribution}."
    try:
        answer = made().repair(context)
        if inspect.isgenerator(answer):
            answer = context.scheduler.run(cast(Problem, answer), session=name)
        delivery = Path(answer).resolve()
    except ClipsecError:
        raise
    except (Exception, SystemExit) as error:
        raise ContractError(f"{name} failed: {type(error).__name__}: {error}", remedy=report) from error
    if not delivery.is_dir() or not delivery.is_relative_to(staging.resolve()):
        raise ContractError(f"{name} wrote no delivery into its folder", remedy=report)
    return delivery


@contextlib.contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """A folder beside the output, so that moving is renaming; gone afterwards, whatever happens."""
    staging = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        (staging / "work").mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"cannot write beside {place}: {error}", remedy="Choose another folder.") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(delivery: Path, place: Path) -> None:
    try:
        # Replaces nothing or an empty folder; fails onto anything else, as it should.
        os.replace(delivery, place)
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error}", remedy="Choose another folder.") from error
