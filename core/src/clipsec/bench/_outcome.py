"""Everything a bench has found so far, as plain data: models, verdicts, numbers, failures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from clipsec.bench._audit import Audited
from clipsec.bench._bench import Bench
from clipsec.bench._measured import Measured, plain_rate
from clipsec.bench._plan import Model, Variant
from clipsec.bench._repaired import RepairLine, repair_lines
from clipsec.bench._score import CLEAN_ATTACK, AttackQuality, Case, Quality, by_attack, quality
from clipsec.results import Outcome, Rate, Verdict
from clipsec.results._plain import encode_plain
from clipsec.runner import environment

FORMAT, VERSION = "clipsec bench", "1.0"
ALL = "all"
"""The scope of every model of a half."""


@attrs.frozen(kw_only=True)
class ModelLine:
    """One model of the suite."""

    half: str
    base: str
    dataset: str
    learner: str
    attack: str
    seed: int
    name: str
    clean: bool
    state: str
    """`built`, `failed` or `missing`."""
    counts: bool
    reasons: tuple[str, ...]
    """Why it does not count, or was not built."""
    measured: Measured
    success_by_target: dict[str, Rate | None] = attrs.field(factory=dict)
    """Of each trigger, by its target's name, where a model has several; None where it was not measured."""
    folder: str = ""
    seconds: float | None = None
    code: str = ""
    key: str = ""


@attrs.frozen(kw_only=True)
class VerdictLine:
    """What one detector said of one model."""

    model: str
    half: str
    detector: str
    state: str
    """`answered`, `failed` or `missing`."""
    reason: str = ""
    outcome: str = ""
    found: str | None = None
    flagged: tuple[str, ...] = ()
    score: float | None = None
    threshold: float | None = None
    right: bool | None = None
    """None for a model that does not count."""
    seconds: float | None = None
    tower_seconds: float | None = None
    forward_rows: int | None = None
    backward_rows: int | None = None
    measures: dict[str, float] = attrs.field(factory=dict)
    run: str = ""
    code: str = ""


@attrs.frozen(kw_only=True)
class Row:
    """One detector on one set of models."""

    half: str
    scope: str
    """`all`, or `base NAME` or `learner NAME`."""
    detector: str
    quality: Quality
    attacks: tuple[AttackQuality, ...]


@attrs.frozen(kw_only=True, eq=False)
class BenchResult:
    """A whole bench as it stands."""

    suite: str
    suite_digest: str
    about: str
    complete: bool
    """Whether every unit was done."""
    models: tuple[ModelLine, ...]
    verdicts: tuple[VerdictLine, ...]
    rows: tuple[Row, ...]
    repairs: tuple[RepairLine, ...]
    cases: dict[tuple[str, str, str], tuple[Case, ...]]
    """By half, scope and detector; what the rows were computed from."""
    detectors: dict[str, dict[str, Any]]
    """By label: plugin, version, code, options, published numbers and their source."""
    bases: dict[str, dict[str, str]]
    environment: dict[str, str]
    other_code: tuple[str, ...]
    """Plugins of which some units were made by another state of their code than the installed one."""

    @property
    def halves(self) -> tuple[str, ...]:
        """In the order of the suite."""
        return tuple(dict.fromkeys(model.half for model in self.models))

    @property
    def scopes(self) -> tuple[str, ...]:
        """Those that rows exist for."""
        return tuple(dict.fromkeys(row.scope for row in self.rows))

    def row(self, half: str, detector: str, scope: str = ALL) -> Row:
        """One row. Raises `KeyError`."""
        for row in self.rows:
            if (row.half, row.scope, row.detector) == (half, scope, detector):
                return row
        raise KeyError((half, scope, detector))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `bench.json`."""
        fields = attrs.asdict(self, filter=attrs.filters.exclude("cases"), value_serializer=plain_rate)
        plain = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **fields}))
        encoded: dict[str, Any] = encode_plain(plain, "bench")
        return encoded


def collect(bench: Bench) -> BenchResult:
    """What is known now; nothing is built or audited."""
    plan, suite = bench.plan, bench.plan.suite
    models = tuple(_model_line(bench, model) for model in plan.models)
    counted = {line.name: line for line in models if line.counts}
    verdicts: list[VerdictLine] = []
    cases: dict[tuple[str, str, str], list[Case]] = {}
    for variant in plan.detectors:
        for model in plan.models:
            audited = bench.audited(model, variant)
            line = _verdict_line(bench, model, variant, audited, counted.get(model.name))
            verdicts.append(line)
            for scope in _scopes(bench, model):
                group = cases.setdefault((model.half, scope, variant.label), [])
                case = _case(model, counted.get(model.name), line)
                if case is not None:
                    group.append(case)
    rows = tuple(
        Row(half=half, scope=scope, detector=label, quality=quality(found), attacks=tuple(by_attack(found)))
        for (half, scope, label), found in cases.items()
    )
    wanted = [line for line in verdicts if line.model in counted or suite.audit.uncounted]
    repairs = tuple(repair_lines(bench, counted))
    return BenchResult(
        suite=suite.name,
        suite_digest=suite.digest,
        about=suite.about,
        complete=all(line.state == "built" for line in models)
        and all(line.state == "answered" for line in wanted)
        and not any(line.state in ("failed", "missing") for line in repairs),
        models=models,
        verdicts=tuple(verdicts),
        rows=rows,
        repairs=repairs,
        cases={key: tuple(found) for key, found in cases.items()},
        detectors={variant.label: _describe(bench, variant) for variant in plan.detectors},
        bases={
            label: {"spec": spec, "digest": bench.plan.base(label).base.digest}
            for label, spec in suite.bases.items()
        },
        environment=environment(),
        other_code=tuple(_of_other_code(bench, models, verdicts)),
    )


def _scopes(bench: Bench, model: Model) -> list[str]:
    scopes = [ALL]
    if len(bench.plan.suite.bases) > 1:
        scopes.append(f"base {model.base}")
    if len(bench.plan.suite.learners) > 1:
        scopes.append(f"learner {model.learner}")
    return scopes


def _model_line(bench: Bench, model: Model) -> ModelLine:
    entry = bench.model_entry(model)
    measured = bench.measured(model)
    reasons: Sequence[str] = ()
    if entry is None:
        state, reasons = "missing", ("it was not built yet",)
    elif not entry.done:
        state, reasons = "failed", (entry.reason,)
    else:
        state, reasons = "built", bench.why_not(model)
    return ModelLine(
        **{name: getattr(model, name) for name in _SHARED},
        state=state,
        counts=not reasons,
        reasons=tuple(reasons),
        measured=measured or Measured(),
        success_by_target=bench.success_by_target(model),
        folder=f"models/{entry.data['folder']}" if entry is not None and entry.done else "",
        seconds=None if entry is None else entry.seconds,
        code="" if entry is None else entry.code,
        key=bench.plan.model_key(model),
    )


_SHARED = ("half", "base", "dataset", "learner", "attack", "seed", "name", "clean")


def _verdict_line(
    bench: Bench, model: Model, variant: Variant, audited: Audited | None, counted: ModelLine | None
) -> VerdictLine:
    entry = bench.audit_entry(model, variant)
    common: dict[str, Any] = {"model": model.name, "half": model.half, "detector": variant.label}
    if entry is None or audited is None:
        state, reason = ("missing", "") if entry is None else ("failed", entry.reason)
        return VerdictLine(**common, state=state, reason=reason)
    verdict = audited.verdict
    right = verdict.outcome is (Outcome.CLEAN if model.clean else Outcome.FINDING)
    return VerdictLine(
        **common,
        state="answered",
        outcome=str(verdict.outcome),
        found=verdict.target,
        flagged=flagged_classes(verdict),
        score=verdict.score,
        threshold=verdict.threshold,
        right=right if counted is not None else None,
        seconds=verdict.cost.seconds,
        tower_seconds=audited.tower_seconds,
        forward_rows=verdict.cost.forward_rows,
        backward_rows=verdict.cost.backward_rows,
        measures=dict(verdict.measures),
        run=f"runs/{audited.run}",
        code=entry.code,
    )


def flagged_classes(verdict: Verdict) -> tuple[str, ...]:
    """The classes that a finding names: its target, and those flagged in the evidence."""
    if verdict.outcome is not Outcome.FINDING:
        return ()
    names = [verdict.target] if verdict.target is not None else []
    names += [row.name for row in verdict.evidence if row.flagged]
    return tuple(dict.fromkeys(names))


def _case(model: Model, counted: ModelLine | None, line: VerdictLine) -> Case | None:
    """The model for the numbers; None for one that does not count or was not audited yet.

    An audit that failed is no answer, which counts as wrong: a detector gains nothing by crashing.
    """
    if counted is None or line.state == "missing":
        return None
    return Case(
        model=model.name,
        dataset=model.dataset,
        attack=CLEAN_ATTACK if model.clean else model.attack,
        targets=counted.measured.targets,
        outcome=Outcome(line.outcome) if line.outcome else Outcome.ERROR,
        score=line.score,
        flagged=line.flagged,
        seconds=line.seconds,
        tower_seconds=line.tower_seconds,
        forward_rows=line.forward_rows,
        backward_rows=line.backward_rows,
    )


def _describe(bench: Bench, variant: Variant) -> dict[str, Any]:
    entry = bench.plan.suite.detectors[variant.label]
    record = variant.installed.record
    return {
        "plugin": record.canonical_name,
        "version": record.version,
        "code": variant.installed.code,
        "options": variant.values,
        "published": dict(entry.published),
        "source": entry.source,
    }


def _of_other_code(
    bench: Bench, models: Sequence[ModelLine], verdicts: Sequence[VerdictLine]
) -> Iterator[str]:
    made = [(model.installed, line.code) for model, line in zip(bench.plan.models, models)]
    installed = {variant.label: variant.installed for variant in bench.plan.detectors}
    made += [(installed[line.detector], line.code) for line in verdicts]
    yield from sorted({plugin.name for plugin, code in made if code and code != plugin.code})
