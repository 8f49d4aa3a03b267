"""Which finding a repair starts from, and which repair it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from clipsec.data import ImagePool, LabelledSet
from clipsec.errors import ContractError, UsageError
from clipsec.models import Suspect
from clipsec.protocols import Need
from clipsec.results import Outcome, RunResult, Verdict
from clipsec.runner._plugin_options import make_options
from clipsec_registry import PluginError, PluginRecord, Registry

KIND = "repairs"
_OF_SUSPECTS = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.PROMPT_HEAD})


def choose_finding(run: RunResult, suspect: Suspect, detector: str = "") -> Verdict:
    """The verdict to repair or to expose from: the named detector's, or the only finding of the run.

    Raises `UsageError` when the run is of another model, or has no such finding.
    """
    audited = run.suspect
    same_kind = audited.kind == suspect.kind and suspect.prompts is None
    same_towers = same_kind and audited.base_digest == suspect.base.digest
    # What was audited without class names is the same model whatever its classes are called.
    if audited.digest != suspect.digest and not (same_towers and not audited.class_names):
        if same_towers:
            raise UsageError(
                f"the finding is about {audited.name} with other class names",
                remedy="Give the --classes that it was audited with.",
            )
        raise UsageError(
            f"the finding is about {audited.name} ({audited.digest[:12]}), not about {suspect.name} "
            f"({suspect.digest[:12]})",
            remedy="Name the run of this very model, or audit it: clipsec run SUSPECT.",
        )
    findings = {name: v for name, v in run.verdicts.items() if v.outcome is Outcome.FINDING}
    if not findings:
        raise UsageError(
            f"the run has no finding to start from: it says {run.outcome}",
            remedy="See clipsec report RUN; a trigger that is known can be named by its card.",
        )
    named = {name: v for name, v in findings.items() if detector in ("", name, name.rpartition("/")[2])}
    if len(named) != 1:
        what = "several detectors found something" if not detector else f"{detector} found nothing"
        raise UsageError(what, remedy=f"Choose one with --detector: {', '.join(sorted(findings))}.")
    (verdict,) = named.values()
    return verdict


def choose_repair(
    registry: Registry,
    name: str,
    options: Mapping[str, Mapping[str, Any]],
    suspect: Suspect,
    *,
    told: bool,
) -> tuple[PluginRecord, Any, Any]:
    """The named repair, or the only one that suits: its record, its class, its options.

    `told` is whether there is a finding, or a known trigger. Raises `UsageError` when it is not clear which,
    an option does not exist or it needs a finding; `PluginError` when it cannot be loaded.
    """
    try:
        records = [registry.find(KIND, name)] if name else list(registry.records(KIND))
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    installed = ", ".join(sorted(record.name for record in records))
    if len(records) > 1:
        loaded = [(record, registry.load(record)) for record in records]
        fitting = [record for record, made in loaded if made is not None and suits(made, suspect, told=told)]
        if len(fitting) != 1:
            names = ", ".join(sorted(record.name for record in fitting)) or installed
            without = "" if told else " without a finding (--finding RUN)"
            raise UsageError(
                f"several repairs suit {suspect.name}{without}"
                if fitting
                else f"no installed repair suits {suspect.name}{without}",
                remedy=f"Choose one with --repair: {names}.",
            )
        records = fitting
    if not records:
        raise UsageError(
            "no repair is installed", remedy="Install clipsec-clip-inspector or clipsec-repairs."
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
    if not told and needs_finding(made):
        raise UsageError(
            f"{record.name} starts from what a detector found, and no finding is given",
            remedy="Name a run of this model with --finding RUN.",
        )
    values = {**options.get(record.name, {}), **options.get(record.canonical_name, {})}
    return registry.record(record), made, make_options(kind, values, record.name)


def needs_finding(made: Any) -> bool:
    """Whether a repair starts from what a detector found; it does unless it says otherwise."""
    return bool(getattr(made, "needs_finding", True))


def suits(made: Any, suspect: Suspect, *, told: bool) -> bool:
    """Whether a repair is for models like this one, and for as much as is known."""
    needs = frozenset(getattr(made, "needs", ()))
    return (
        needs & _OF_SUSPECTS <= suspect.provides
        and (Need.PROMPT_HEAD in needs) == (suspect.prompts is not None)
        and needs_finding(made) == told
    )


def check_needs(
    record: PluginRecord,
    made: Any,
    suspect: Suspect,
    pool: ImagePool | None,
    labelled: LabelledSet | None,
    reference: Suspect | None,
) -> None:
    """Raise `UsageError` when there is not what a repair needs."""
    beside = {Need.IMAGE_POOL: pool, Need.LABELS: labelled, Need.CLEAN_REFERENCE: reference}
    offered = {*suspect.provides, *(need for need, given in beside.items() if given is not None)}
    if labelled is not None:
        offered.add(Need.CLASS_NAMES)
    missing = sorted(set(made.needs) - offered)
    if missing:
        raise UsageError(
            f"{record.name} needs {', '.join(missing)}, which {suspect.name} or this command does not offer",
            remedy="Choose another repair, or name pictures with --pool or --labelled, or a clean model with "
            "--reference, if that is what is missing.",
        )
