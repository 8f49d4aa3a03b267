"""The exposure matrix: through which uses of a suspect a known trigger hurts."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipsec.data import ImagePool, LabelledSet, TextPool
from clipsec.errors import ContractError, UsageError
from clipsec.exposure import Limits
from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.results import Cell, EncodeCost, ExposureResult, Footprint, exposure_to_text
from clipsec.runner._environment import environment
from clipsec.runner._expose_inputs import AnyTrigger, fitting, notes_of, pictures_of, record_of, reference_of
from clipsec.runner._expose_study import SESSION, Study
from clipsec.runner._gate import gate_of
from clipsec.runner._interfaces import Asked, choose_interfaces
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import UnitStore, atomic_write
from clipsec_registry import Registry, find_lock

RECORD = "exposure.json"
PAGE = "exposure.html"


def expose(
    suspect: Suspect,
    triggers: Sequence[AnyTrigger],
    *,
    reference: Suspect | None = None,
    labelled: LabelledSet | None = None,
    held_out: LabelledSet | None = None,
    pool: ImagePool | None = None,
    captions: TextPool | None = None,
    interfaces: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    output: str | Path | None = None,
    recovered: bool = False,
    localise: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    scheduler: Scheduler | None = None,
    on_progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> ExposureResult:
    """Measure every installed interface with every trigger, on the suspect and on a clean reference.

    `reference` is the clean model to compare with: the public base, or a clean delivery. Without it a
    prompt-tuned delivery is compared with its own base answering zero-shot, which cannot show what is in the
    towers, and of any other model nothing can be concluded. `labelled` are pictures of the suspect's classes
    that a downstream user has; what is measured is `held_out`, or else half of `labelled`. `recovered` says
    that the triggers are a detector's. `localise` also searches for the parts of a branch that carry the
    effect, at the cost of a pass over the cases for each try.

    `output` gets `exposure.json`, `exposure.html` and the rows of each cell in `pools/`.

    Raises `UsageError` for no trigger, a trigger that does not fit or a reference that is the suspect itself,
    `ContractError` when a plugin changes a tower, `DataError`, `ModelError` or `StoreError`.
    """
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    if not triggers:
        raise UsageError(
            "there is no trigger to measure with",
            remedy="Name a card with --trigger, or a run that found something with --finding.",
        )
    registry = registry or Registry(lock=find_lock())
    scheduler = scheduler or Scheduler(cache=FeatureCache())
    if not suspect.class_names and labelled is not None:
        suspect.class_names = labelled.class_names
    reference, role = reference_of(suspect, reference)
    train, test = pictures_of(suspect, labelled, held_out, seed)
    triggers = [fitting(suspect, trigger) for trigger in triggers]
    chosen = choose_interfaces(registry, interfaces, options or {})
    for each in (suspect, reference):
        if each is not None:
            each.seal()
    gate = gate_of(suspect, pool, test, registry)
    reference_gate = None if reference is None else gate_of(reference, pool, test, registry)
    asked = Asked()
    with TemporaryDirectory(prefix="clipsec-expose-") as scratch:
        base = Context(
            suspect=suspect,
            options=None,
            scheduler=scheduler,
            units=UnitStore(Path(scratch) / "units"),
            shared=UnitStore(Path(scratch) / "shared"),
            folder=Path(scratch),
            pool=pool,
            labelled=train,
            held_out=test,
            captions=captions,
            reference=reference,
            seed=seed,
        )
        study = Study(base, chosen, scheduler, asked, role, limits or Limits(), localise, on_progress)
        drift = study.drift()
        footprints: list[Footprint] = []
        cells: list[Cell] = []
        for position, trigger in enumerate(triggers):
            found, row = study.row(position, len(triggers), trigger)
            footprints += found
            cells += row
    changed = [
        f"{each.name}: {what}" for each in (suspect, reference) if each is not None for what in each.changed()
    ]
    if changed:
        raise ContractError(
            f"a tower was changed in memory while interfaces ran ({', '.join(changed)[:300]})",
            remedy="Name the interfaces one by one with --interface; report the one that changes it.",
        )
    counts = scheduler.counts(SESSION)
    result = ExposureResult(
        suspect=suspect.card,
        reference=None if reference is None else reference.card,
        reference_role=role,
        gate=gate,
        reference_gate=reference_gate,
        triggers=tuple(record_of(trigger, recovered) for trigger in triggers),
        drift=drift,
        footprints=tuple(footprints),
        cells=tuple(cells),
        cost=EncodeCost(
            computed_rows=counts.forward_rows - asked.gradient_rows,
            cached_rows=counts.cached_rows,
            unique_rows=len(asked.pairs),
            gradient_rows=asked.gradient_rows,
            seconds=round(counts.seconds, 3),
        ),
        data={
            "labelled": "" if train is None else train.digest,
            "held_out": "" if test is None else test.digest,
            "pool": "" if pool is None else pool.digest,
            "captions": "" if captions is None else captions.digest,
        },
        notes=(*notes_of(role, triggers if recovered else (), test, suspect), *study.swap_note()),
        seed=seed,
        environment=environment(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        folder="" if output is None else str(output),
    )
    if output is not None:
        _write(result, study.indices, Path(output))
    return result


def _write(result: ExposureResult, indices: Mapping[str, bytes], folder: Path) -> None:
    from clipsec.reports import render_exposure_html

    for name, content in indices.items():
        atomic_write(folder / name, content)
    atomic_write(folder / RECORD, exposure_to_text(result).encode())
    atomic_write(folder / PAGE, render_exposure_html(result).encode())
