"""Running a suite: which units are left, in which order, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from filelock import FileLock, Timeout

from clipsec.bench._audit import Audited, audit_model, audited_from_json
from clipsec.bench._build import build_model
from clipsec.bench._ledger import Entry, Ledger
from clipsec.bench._measured import Measured, measured_from_json, why_not
from clipsec.bench._pace import Pace
from clipsec.bench._plan import Model, Plan, Variant
from clipsec.errors import ClipsecError
from clipsec.reports._text import duration
from clipsec.runner import default_shared_folder
from clipsec.scheduler import FeatureCache
from clipsec.store._atomic import make_folder

MODEL, AUDIT = "model", "audit"


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


@attrs.define(eq=False)
class Bench:
    """A plan and the folder its results lie in.

    models/NAME-KEY/   deliveries, each with its trigger card
    units/             what became of each unit, by content key
    runs/              the audits
    """

    plan: Plan
    out: Path
    shared: Path = attrs.field(factory=default_shared_folder)
    any_code: bool = False
    """Use units that other code of the same plugin version made."""
    ledger: Ledger = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(self.out / "units", any_code=self.any_code)

    # What is known.

    def model_entry(self, model: Model) -> Entry | None:
        """What became of building a model; None if nobody tried, or what was built is gone."""
        entry = self.ledger.look(self.plan.model_key(model), model.installed.code)
        if entry is not None and entry.done and not self.delivery(model, entry).is_dir():
            return None
        return entry

    def delivery(self, model: Model, entry: Entry) -> Path:
        """Where a model lies."""
        return self.out / "models" / str(entry.data["folder"])

    def measured(self, model: Model) -> Measured | None:
        """What the attack measured; None unless the model was built."""
        entry = self.model_entry(model)
        if entry is None or not entry.done:
            return None
        return measured_from_json(entry.data["measured"])

    def why_not(self, model: Model) -> list[str]:
        """Why a built model does not count as what its label says; empty when it does."""
        measured = self.measured(model)
        if model.clean or measured is None:
            return []
        clean = next(
            (other for other in self.plan.models if other.clean and other.reference == model.reference), None
        )
        reference = self.measured(clean) if clean is not None else None
        return list(why_not(measured, reference, self.plan.suite.rules_of(model.attack)))

    def audit_entry(self, model: Model, variant: Variant) -> Entry | None:
        """What became of one audit; None if there was none."""
        built = self.model_entry(model)
        if built is None or not built.done:
            return None
        key = self.plan.audit_key(model, variant, built.data["suspect"])
        return self.ledger.look(key, variant.installed.code)

    def audited(self, model: Model, variant: Variant) -> Audited | None:
        """What a detector said of a model; None unless it said something."""
        entry = self.audit_entry(model, variant)
        return audited_from_json(entry.data) if entry is not None and entry.done else None

    # What is to be done.

    def work(
        self,
        *,
        halves: Sequence[str] = (),
        models: bool = True,
        audits: bool = True,
        limit: int | None = None,
        watcher: Watcher | None = None,
    ) -> Tally:
        """Do what is left, group by group: build the models that share base, data and learner, then audit
        them.

        Several processes may work on one output folder; what another one holds is left to it. Failures of a
        unit are stored and told, and the work goes on. Raises `StoreError` when results cannot be stored,
        `ModelError` when a base cannot be loaded.
        """
        return _Worker(self, limit, watcher or Watcher()).run(halves, models, audits)


class _Worker:
    def __init__(self, bench: Bench, limit: int | None, watcher: Watcher) -> None:
        self._bench, self._plan, self._limit, self._watcher = bench, bench.plan, limit, watcher
        self._tally, self._pace, self._cache = Tally(), Pace(), FeatureCache()
        self._total, self._position = 0, 0
        self._ahead: dict[tuple[str, str], int] = {}

    def run(self, halves: Sequence[str], models: bool, audits: bool) -> Tally:
        groups = [group for group in self._plan.groups() if not halves or group[0].half in halves]
        self._look_ahead(groups, models, audits)
        for group in groups:
            if models:
                for model in group:
                    self._build(model)
            if audits:
                for model in group:
                    self._audit(model)
            self._plan.datasets[group[0].dataset].forget()
        return self._tally

    def _look_ahead(self, groups: Sequence[Sequence[Model]], models: bool, audits: bool) -> None:
        """Count what there is to do, and learn the pace from what was done before."""
        for model in (model for group in groups for model in group):
            built = self._bench.model_entry(model)
            if models:
                self._count((MODEL, model.attack), built)
            if audits and not self._is_left_out(model):
                for variant in self._plan.detectors:
                    self._count((AUDIT, variant.label), self._bench.audit_entry(model, variant))

    def _count(self, kind: tuple[str, str], entry: Entry | None) -> None:
        self._total += 1
        if entry is not None and entry.done:
            self._pace.add(kind, entry.seconds)
            self._tally.stored += 1
            self._position += 1
        else:
            self._ahead[kind] = self._ahead.get(kind, 0) + 1

    def _is_left_out(self, model: Model) -> bool:
        return not self._plan.suite.audit.uncounted and bool(self._bench.why_not(model))

    def _build(self, model: Model) -> None:
        bench, kind = self._bench, (MODEL, model.attack)
        entry = bench.model_entry(model)
        if entry is not None and entry.done:
            return
        if self._is_full():
            self._tally.left += 1
            return
        key = self._plan.model_key(model)
        with self._held(key) as held:
            if not held or _is_done(bench.model_entry(model)):
                self._elsewhere(kind)
                return
            folder = bench.out / "models" / f"{model.name}-{key[:10]}"
            began = time.monotonic()
            try:
                data = build_model(self._plan, model, folder, self._progress(f"building {model.name}"))
            except (Exception, SystemExit) as error:
                reason = reason_of(error)
                bench.ledger.fail(key, model.installed.code, time.monotonic() - began, reason)
                self._failed(kind, f"model {model.name}", reason)
                return
            seconds = time.monotonic() - began
            bench.ledger.finish(key, model.installed.code, seconds, data)
        self._did(kind, seconds, f"model {model.name}: {_words(bench.measured(model))}")

    def _audit(self, model: Model) -> None:
        bench, plan = self._bench, self._plan
        built = bench.model_entry(model)
        if built is None or not built.done:
            self._tally.left += len(plan.detectors)
            return
        if reasons := bench.why_not(model):
            self._watcher.said(f"{model.name} does not count: {'; '.join(reasons)}")
            if not plan.suite.audit.uncounted:
                for variant in plan.detectors:
                    self._forget((AUDIT, variant.label), bench.audit_entry(model, variant))
                return
        missing = [v for v in plan.detectors if not _is_done(bench.audit_entry(model, v))]
        for variants in [missing] if plan.suite.audit.together else [[variant] for variant in missing]:
            room = len(variants) if self._limit is None else max(0, self._limit - self._tally.done)
            self._tally.left += len(variants[room:])
            if variants[:room]:
                self._audit_with(model, variants[:room], built)

    def _audit_with(self, model: Model, variants: Sequence[Variant], built: Entry) -> None:
        bench, plan = self._bench, self._plan
        keys = {v.label: plan.audit_key(model, v, built.data["suspect"]) for v in variants}
        with self._held(plan.model_key(model)) as held:
            if not held or any(_is_done(bench.audit_entry(model, variant)) for variant in variants):
                for variant in variants:
                    self._elsewhere((AUDIT, variant.label))
                return
            began = time.monotonic()
            audited: dict[str, Audited] = {}
            crash = ""
            try:
                audited = audit_model(
                    plan,
                    model,
                    variants,
                    delivery=bench.delivery(model, built),
                    runs=bench.out / "runs",
                    shared=bench.shared,
                    cache=self._cache,
                    progress=self._progress(f"auditing {model.name}"),
                )
            except Exception as error:
                crash = reason_of(error)
            seconds = (time.monotonic() - began) / len(variants)
            for variant in variants:
                kind, what = (AUDIT, variant.label), f"{model.name} under {variant.label}"
                code, key = variant.installed.code, keys[variant.label]
                found = audited.get(variant.label)
                failure = crash if found is None else found.failure
                if found is None or failure:
                    bench.ledger.fail(key, code, seconds, failure)
                    self._failed(kind, what, failure)
                else:
                    bench.ledger.finish(key, code, seconds, found.to_json())
                    self._did(kind, seconds, f"{what}: {_verdict_words(found)}")

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

    def _is_full(self) -> bool:
        return self._limit is not None and self._tally.done >= self._limit

    def _progress(self, unit: str) -> Callable[[float, str], None]:
        return lambda fraction, what: self._watcher.working(unit, fraction, what, self._left())

    def _left(self) -> float | None:
        return self._pace.left(kind for kind, count in self._ahead.items() for _ in range(count))

    def _did(self, kind: tuple[str, str], seconds: float, line: str) -> None:
        self._pace.add(kind, seconds)
        self._tally.done += 1
        self._ended(kind, f"{line}, {seconds:.1f} s")

    def _failed(self, kind: tuple[str, str], what: str, reason: str) -> None:
        self._tally.failed += 1
        self._ended(kind, f"{what} FAILED: {reason}")

    def _ended(self, kind: tuple[str, str], line: str) -> None:
        self._ahead[kind] -= 1
        self._position += 1
        self._watcher.said(f"[{self._position}/{self._total}{_eta(self._left())}] {line}")

    def _elsewhere(self, kind: tuple[str, str]) -> None:
        """A unit that another process has, or has just finished."""
        self._tally.left += 1
        self._ahead[kind] -= 1

    def _forget(self, kind: tuple[str, str], entry: Entry | None) -> None:
        """A unit that turned out not to be wanted."""
        if not _is_done(entry) and self._ahead.get(kind):
            self._ahead[kind] -= 1
            self._total -= 1


def _is_done(entry: Entry | None) -> bool:
    return entry is not None and entry.done


def reason_of(error: BaseException) -> str:
    """An exception in two sentences."""
    if isinstance(error, ClipsecError):
        return f"{error.message}. {error.remedy}"
    return f"{type(error).__name__}: {error}"


def _eta(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration(round(seconds))} left"


def _words(measured: Measured | None) -> str:
    if measured is None or measured.accuracy is None:
        return "accuracy not measured"
    text = f"accuracy {measured.accuracy.value:.3f}"
    if measured.success is not None:
        text += f", success {measured.success.value:.3f} on {', '.join(measured.targets)}"
    if measured.base_success is not None:
        text += f" ({measured.base_success.value:.3f} on the base)"
    return text


def _verdict_words(found: Audited) -> str:
    verdict: Any = found.verdict
    text = str(verdict.outcome)
    if verdict.target is not None:
        text += f" {verdict.target}"
    return text if verdict.score is None else f"{text}, score {verdict.score:.3g}"
