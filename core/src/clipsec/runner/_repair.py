"""Repair a suspect with what is known of its backdoor, measure the result, and keep it only if it worked."""

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

from clipsec.data import ImagePool, LabelledSet, TextPool, coco_captions
from clipsec.errors import ClipsecError, ContractError, StoreError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import CaptionTrigger, Context, Trigger
from clipsec.results import (
    LEAST_LIKENESS,
    BeforeAfter,
    RepairOutcome,
    RepairResult,
    RunResult,
    judge_repair,
    repair_to_text,
)
from clipsec.runner._audit import usable_shared_folder
from clipsec.runner._environment import environment
from clipsec.runner._repair_choice import check_needs, choose_finding, choose_repair
from clipsec.runner._repair_measure import Measuring, Planted, cases_of
from clipsec.runner._repair_pictures import coverage, split_pictures
from clipsec.runner._repair_texts import split_captions
from clipsec.scheduler import FeatureCache, Problem, Scheduler
from clipsec.store import UnitStore, atomic_write, read_run
from clipsec.triggers import TextTriggerCard
from clipsec_registry import PluginRecord, Registry, find_lock

RECORD = "repair.json"


def repair(
    suspect: Suspect | str,
    *,
    output: str | Path,
    finding: RunResult | str | Path | None = None,
    labelled: LabelledSet | str | Path | None = None,
    held_out: LabelledSet | str | Path | None = None,
    captions: TextPool | str | Path | None = None,
    reference: Suspect | str | None = None,
    plugin: str = "",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    detector: str = "",
    trigger: Planted | Sequence[Planted] | None = None,
    known: TextTriggerCard | None = None,
    pool: ImagePool | str | Path | None = None,
    goal: float = 0.05,
    allowed_drop: float = 0.01,
    least_likeness: float = LEAST_LIKENESS,
    seed: int = 0,
    search_dtype: torch.dtype = torch.bfloat16,
    registry: Registry | None = None,
    scheduler: Scheduler | None = None,
    shared: str | Path | None = None,
    on_progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> RepairResult:
    """Make a repaired delivery from a suspect and, for most repairs, the run that found its backdoor.

    The repair plugin sees `labelled` (pictures with true labels), `captions` (by default COCO's that ship
    with clipsec), the finding, the pool, the clean `reference` and a `known` trigger in captions. Neither
    what is measured on (`held_out` pictures, or a share of `labelled` that is set apart; a share of the
    captions) nor the attacker's `trigger` (or triggers) is shown to it. Pictures are needed for learned
    prompts and for triggers on pictures. The delivery is loaded again and measured as a user would get it.
    It is moved to `output`, with the record in `repair.json`, only when `judge_repair` calls it repaired;
    `output` is then complete, and in every other case it is not there.

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
    if isinstance(reference, str):
        reference = load_suspect(reference, device=str(suspect.device), registry=registry)
    run = finding if isinstance(finding, RunResult) or finding is None else read_run(finding)
    verdict = None if run is None else choose_finding(run, suspect, detector)
    folder = "" if run is None else run.folder
    record, made, plugin_options = choose_repair(
        registry, plugin, options or {}, suspect, told=verdict is not None or known is not None
    )
    train, test = split_pictures(suspect, labelled, held_out, seed)
    pool = ImagePool.from_folder(pool) if isinstance(pool, str | Path) else pool
    check_needs(record, made, suspect, pool, train, reference)
    scheduler = scheduler or Scheduler(cache=FeatureCache())
    planted = [trigger] if isinstance(trigger, Trigger | TextTriggerCard) else list(trigger or ())
    cases = cases_of(verdict, folder, planted, known)
    if verdict is None and not cases:
        raise UsageError(
            "without a finding or a trigger nothing says whether a repair worked",
            remedy="Name a run of this model with --finding RUN, or the attacker's card with --trigger CARD.",
        )
    learn: TextPool | None = None
    kept: tuple[str, ...] = ()
    if suspect.base.text is not None and suspect.prompts is None:
        captions = TextPool.from_file(captions) if isinstance(captions, str | Path) else captions
        learn, kept = split_captions(captions or coco_captions(), seed)
    measuring = Measuring(scheduler, suspect, reference, test, kept, cases)
    before, base = measuring.before(), measuring.clean()
    with _staging(place) as staging:
        context = Context(
            suspect=suspect,
            options=plugin_options,
            scheduler=scheduler,
            units=UnitStore(staging / "work" / "units"),
            shared=UnitStore(Path(shared) if shared is not None else usable_shared_folder(place.parent)),
            folder=staging / "work",
            pool=pool,
            labelled=train,
            reference=reference,
            captions=learn,
            finding=verdict,
            finding_folder=Path(folder) if verdict else None,
            trigger=None if known is None else CaptionTrigger.of_card(known),
            output=staging / "repaired",
            seed=seed,
            search_dtype=search_dtype,
            progress=on_progress,
        )
        delivery = _run_plugin(record, made, context, staging)
        repaired = load_suspect(
            str(delivery), class_names=suspect.class_names, device=str(suspect.device), registry=registry
        )
        alike = measuring.likeness(repaired)
        after = measuring.after(repaired, alike)
        accuracy, *successes = (
            None if old is None or new is None else BeforeAfter(old, new, clean)
            for old, new, clean in zip(before, after, base, strict=True)
        )
        triggers = tuple(case.rates(success) for case, success in zip(cases, successes) if success)
        outcome, summary = judge_repair(
            accuracy,
            triggers,
            goal=goal,
            allowed_drop=allowed_drop,
            likeness=alike,
            least_likeness=least_likeness,
        )
        result = RepairResult(
            suspect=suspect.card,
            outcome=outcome,
            summary=summary,
            accuracy=accuracy,
            triggers=triggers,
            goal=goal,
            allowed_drop=allowed_drop,
            repair=record.canonical_name,
            version=record.version,
            options=attrs.asdict(plugin_options),
            seed=seed,
            finding="" if verdict is None or verdict.provenance is None else verdict.provenance.key,
            data={
                "labelled": "" if train is None else train.digest,
                "held_out": "" if test is None else test.digest,
                "pool": "" if pool is None else pool.digest,
                "captions": "" if learn is None else learn.digest,
                "held_out_captions": TextPool(kept).digest if kept else "",
                "reference": "" if reference is None else reference.digest,
            },
            repaired_digest=repaired.digest,
            notes=coverage(train),
            environment=environment(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
            likeness=alike,
            least_likeness=least_likeness,
        )
        if outcome is RepairOutcome.REPAIRED:
            result = attrs.evolve(result, folder=str(place))
            atomic_write(delivery / RECORD, repair_to_text(result).encode())
            _move(delivery, place)
    return result


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
