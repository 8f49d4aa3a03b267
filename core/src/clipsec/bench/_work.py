"""Running a suite: which units are left, in which order, and what is told of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from filelock import FileLock, Timeout

from clipsec.bench._audit import Audited, audit_model
from clipsec.bench._bench import Bench
from clipsec.bench._build import build_model
from clipsec.bench._ledger import Entry
from clipsec.bench._measured import Measured, measured_from_json
from clipsec.bench._pace import Pace
from clipsec.bench._plan import Model, Variant
from clipsec.bench._repair import repair_data, repair_model
from clipsec.errors import ClipsecError
from clipsec.reports._text import duration, percent
from clipsec.results import Outcome, RepairResult
from clipsec.scheduler import FeatureCache
from clipsec.store._atomic import make_folder

MODELS, AUDITS, REPAIRS = "models", "audits", "repairs"
KINDS = (MODELS, AUDITS, REPAIRS)

Kind = tuple[str, str]
"""`models` and an attack, `audits` and a detector, `repairs` and a repair."""


class Watcher:
    """Is told what happens; every method may be overridden."""

    def working(self, unit: str, fraction: float, what: str, left: float | None) -> None:
        """A unit is being worked on; `left` is the estimate for all of the rest, in seconds."""

    def said(self, line: str) -> None:
        """A unit has ended, in one line."""


@attrs.define
class Tally:
    """What one call of `work` did."""

    done: int = 0
    stored: int = 0
    """Units that were there already."""
    failed: int = 0
    left: int = 0
    """Units that this call did not come to: beyond its limit, or with another process."""


def work(
    bench: Bench,
    *,
    halves: Sequence[str] = (),
    kinds: Collection[str] = KINDS,
    limit: int | None = None,
    watcher: Watcher | None = None,
) -> Tally:
    """Do what is left, group by group: build the models that share base, data and learner, audit them, repair
    those that a detector found out.

    Several processes may work on one output folder; what another one holds is left to it. A unit that fails
    is stored with its reason and told, and the work goes on. Raises `StoreError` when results cannot be
    stored, `ModelError` when a base cannot be loaded.
    """
    return _Worker(bench, frozenset(kinds), limit, watcher or Watcher()).run(halves)


class _Worker:
    def __init__(self, bench: Bench, kinds: frozenset[str], limit: int | None, watcher: Watcher) -> None:
        self._bench, self._plan, self._kinds = bench, bench.plan, kinds
        self._limit, self._watcher = limit, watcher
        self._tally, self._pace, self._cache = Tally(), Pace(), FeatureCache()
        self._ahead: dict[Kind, int] = {}
        self._total = self._position = 0

    def run(self, halves: Sequence[str]) -> Tally:
        groups = [group for group in self._plan.groups() if not halves or group[0].half in halves]
        for group in groups:
            for model in group:
                self._look_ahead(model)
        for group in groups:
            for kind, do in ((MODELS, self._build), (AUDITS, self._audit), (REPAIRS, self._repair)):
                if kind in self._kinds:
                    for model in group:
                        do(model)
            self._plan.datasets[group[0].dataset].forget()
        return self._tally

    # What is ahead.

    def _look_ahead(self, model: Model) -> None:
        """Count what there is to do, and learn the pace from what was done before."""
        bench = self._bench
        if MODELS in self._kinds:
            self._count((MODELS, model.attack), bench.model_entry(model))
        if AUDITS in self._kinds and bench.is_audited(model):
            for variant in self._plan.detectors:
                self._count((AUDITS, variant.label), bench.audit_entry(model, variant))
        if REPAIRS in self._kinds:
            for variant in self._plan.repairs:
                # Whether there is a finding to repair from is known for audited models only.
                if bench.finding(model, variant) is not None:
                    self._count((REPAIRS, variant.label), bench.repair_entry(model, variant))

    def _count(self, kind: Kind, entry: Entry | None) -> None:
        self._total += 1
        if is_done(entry):
            assert entry is not None
            self._pace.add(kind, entry.seconds)
            self._tally.stored += 1
            self._position += 1
        else:
            self._ahead[kind] = self._ahead.get(kind, 0) + 1

    def _left(self) -> float | None:
        return self._pace.left(kind for kind, count in self._ahead.items() for _ in range(count))

    def _is_full(self) -> bool:
        return self._limit is not None and self._tally.done + self._tally.failed >= self._limit

    # The three kinds of units.

    def _build(self, model: Model) -> None:
        bench, kind = self._bench, (MODELS, model.attack)
        if is_done(bench.model_entry(model)):
            return
        if self._is_full():
            self._tally.left += 1
            return
        key = self._plan.model_key(model)
        with self._held(key) as held:
            if not held or is_done(bench.model_entry(model)):
                self._elsewhere(kind)
                return
            folder = bench.out / "models" / f"{model.name}-{key[:10]}"
            with self._unit(kind, key, model.installed.code, f"model {model.name}") as unit:
                unit.data = build_model(self._plan, model, folder, self._progress(f"building {model.name}"))
                unit.words = _model_words(measured_from_json(unit.data["measured"]))

    def _audit(self, model: Model) -> None:
        bench, detectors = self._bench, self._plan.detectors
        built = bench.model_entry(model)
        if not is_done(built):
            self._tally.left += len(detectors)
            return
        if reasons := bench.why_not(model):
            self._watcher.said(f"{model.name} does not count: {'; '.join(reasons)}")
        missing = [variant for variant in detectors if not is_done(bench.audit_entry(model, variant))]
        if not bench.is_audited(model):
            for variant in missing:
                self._forget((AUDITS, variant.label))
            return
        together = self._plan.suite.audit.together
        for variants in [missing] if together else [[variant] for variant in missing]:
            room = len(variants)
            if self._limit is not None:
                room = max(0, self._limit - self._tally.done - self._tally.failed)
            self._tally.left += len(variants[room:])
            if variants[:room]:
                self._audit_with(model, variants[:room])

    def _audit_with(self, model: Model, variants: Sequence[Variant]) -> None:
        bench = self._bench
        with self._held(self._plan.model_key(model)) as held:
            entry = bench.model_entry(model)
            if not held or entry is None or any(is_done(bench.audit_entry(model, each)) for each in variants):
                for variant in variants:
                    self._elsewhere((AUDITS, variant.label))
                return
            began = time.monotonic()
            audited: Mapping[str, Audited] = {}
            crash: Exception | None = None
            try:
                audited = audit_model(
                    self._plan,
                    model,
                    variants,
                    delivery=bench.delivery(entry),
                    runs=bench.runs(variants),
                    top=bench.out / "runs",
                    shared=bench.shared,
                    cache=self._cache,
                    progress=self._progress(f"auditing {model.name}"),
                )
            except Exception as error:
                crash = error
            # Detectors of one run share their time; how they share it is in what each one says.
            began += (time.monotonic() - began) * (1 - 1 / len(variants))
            for variant in variants:
                key = bench.audit_key(model, variant)
                what = f"{model.name} under {variant.label}"
                with self._unit((AUDITS, variant.label), key, variant.installed.code, what, began) as unit:
                    if crash is not None:
                        raise crash
                    found = audited[variant.label]
                    if found.failure:
                        raise _Failed(found.failure)
                    unit.data = found.to_json()
                    unit.words = _verdict_words(found)

    def _repair(self, model: Model) -> None:
        bench = self._bench
        for variant in self._plan.repairs:
            audited, built = bench.finding(model, variant), bench.model_entry(model)
            if audited is None or built is None or is_done(bench.repair_entry(model, variant)):
                continue
            kind = (REPAIRS, variant.label)
            if self._is_full():
                self._tally.left += 1
                continue
            key = bench.repair_key(model, variant)
            with self._held(self._plan.model_key(model)) as held:
                if not held or is_done(bench.repair_entry(model, variant)):
                    self._elsewhere(kind)
                    continue
                what = f"{model.name} repaired by {variant.label}"
                with self._unit(kind, key, variant.installed.code, what) as unit:
                    result = repair_model(
                        self._plan,
                        model,
                        variant,
                        audited,
                        delivery=bench.delivery(built),
                        runs=bench.out / "runs",
                        output=bench.out / "repaired" / f"{model.name}-{variant.label}-{key[:10]}",
                        shared=bench.shared,
                        cache=self._cache,
                        progress=self._progress(f"repairing {model.name}"),
                    )
                    unit.data = repair_data(result)
                    unit.words = _repair_words(result)

    # One unit.

    @contextmanager
    def _held(self, key: str) -> Iterator[bool]:
        """Whether this process may work on a model: no other one does."""
        lock = FileLock(make_folder(self._bench.out / "locks") / f"{key[:32]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def _unit(
        self, kind: Kind, key: str, code: str, what: str, began: float | None = None
    ) -> Iterator[_Unit]:
        """Store what the block found, or why it failed; tell it in one line."""
        began = time.monotonic() if began is None else began
        unit, ledger = _Unit(), self._bench.ledger
        try:
            yield unit
        except (Exception, SystemExit) as error:
            reason = reason_of(error)
            ledger.fail(key, code, time.monotonic() - began, reason)
            self._tally.failed += 1
            line = f"{what} FAILED: {reason}"
        else:
            seconds = time.monotonic() - began
            ledger.finish(key, code, seconds, unit.data)
            self._pace.add(kind, seconds)
            self._tally.done += 1
            line = f"{what}: {unit.words}, {duration(seconds)}"
        if self._ahead.get(kind):
            self._ahead[kind] -= 1
        else:
            self._total += 1
        self._position += 1
        rest = self._left()
        eta = "" if rest is None else f", {duration(round(rest))} left"
        self._watcher.said(f"[{self._position}/{self._total}{eta}] {line}")

    def _progress(self, unit: str) -> Callable[[float, str], None]:
        return lambda fraction, what: self._watcher.working(unit, fraction, what, self._left())

    def _elsewhere(self, kind: Kind) -> None:
        """A unit that another process has, or has just finished."""
        self._tally.left += 1
        if self._ahead.get(kind):
            self._ahead[kind] -= 1

    def _forget(self, kind: Kind) -> None:
        """A unit that turned out not to be wanted."""
        if self._ahead.get(kind):
            self._ahead[kind] -= 1
            self._total -= 1


@attrs.define(eq=False)
class _Unit:
    data: Mapping[str, Any] = attrs.field(factory=dict)
    words: str = ""
    """What it found, for people."""


class _Failed(ClipsecError):
    """A unit that ended without an answer, and said why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, remedy="")


def is_done(entry: Entry | None) -> bool:
    """Whether a unit is there and finished."""
    return entry is not None and entry.done


def reason_of(error: BaseException) -> str:
    """An exception in two sentences."""
    if isinstance(error, ClipsecError):
        return f"{error.message.rstrip('.')}. {error.remedy}".strip()
    return f"{type(error).__name__}: {error}"


def _model_words(measured: Measured) -> str:
    text = "accuracy not measured"
    if measured.accuracy is not None:
        text = f"accuracy {measured.accuracy.value:.3f}"
    if measured.success is not None:
        text += f", success {measured.success.value:.3f} on {', '.join(measured.targets)}"
    if measured.base_success is not None:
        text += f" ({measured.base_success.value:.3f} on the base)"
    return text


def _verdict_words(found: Audited) -> str:
    verdict = found.verdict
    text = str(verdict.outcome)
    if verdict.outcome is Outcome.FINDING and verdict.target is not None:
        text += f" {verdict.target}"
    return text if verdict.score is None else f"{text}, score {verdict.score:.3g}"


def _repair_words(result: RepairResult) -> str:
    text, accuracy = str(result.outcome), result.accuracy
    if accuracy is not None:
        text += f", accuracy {percent(accuracy.before.value)} to {percent(accuracy.after.value)}"
    for trigger in result.triggers:
        if trigger.planted:
            rates = trigger.success
            text += f", success {percent(rates.before.value)} to {percent(rates.after.value)}"
    return text
