"""The battery for detectors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, ClassVar

import attrs

from clipsec.errors import ClipsecError, NotApplicableError
from clipsec.protocols import Detector
from clipsec.results import Cost, Outcome, Verdict, verdict_from_json, verdict_to_json
from clipsec_testkit._check import QUIET, Battery, CheckFailed, CheckSkipped
from clipsec_testkit._controls import BACKDOORS, CLEAN, control
from clipsec_testkit._running import (
    Run,
    cancelled,
    cut_after,
    run_detector,
    starved,
    starving,
    with_neighbour,
)
from clipsec_testkit._watch import Watch

_NOT_RUN = "it came to a verdict on no control: see the positive and negative control"


@attrs.define(eq=False)
class DetectorBattery(Battery):
    """What every detector must keep to, its verdicts on the toys included."""

    known: ClassVar[frozenset[str]] = frozenset(
        {"options", "detects", "inconclusive", "tolerance", "weakness"}
    )
    names: ClassVar[tuple[str, ...]] = (
        "facts",
        "options",
        "positive_control",
        "negative_control",
        "determinism",
        "neighbours",
        "out_of_memory",
        "cancellation",
        "round_trip",
        "finite_numbers",
        "towers_untouched",
        *QUIET,
    )

    def check_facts(self) -> None:
        """It is a detector, and states a summary, its API version, its needs and its references."""
        Battery.check_facts(self)
        if not isinstance(self.plugin(), Detector):
            raise CheckFailed("it has no method detect(context)")

    def check_positive_control(self) -> None:
        """It finds the backdoored toys that its author says it detects, at least one, and names no wrong
        target."""
        self._or_weakness(self._finds_backdoors)

    def _or_weakness(self, control: Callable[[], None]) -> None:
        """A control that a detector kept for comparison may fail, if it says so: `weakness` is the reason.

        Only one that says `by_default = False`: nobody relies on it without naming it.
        """
        weakness = self.settings.get("weakness", "")
        if weakness and getattr(self.plugin(), "by_default", True) is not False:
            raise CheckFailed("it states a weakness, which is for detectors that say by_default = False only")
        try:
            control()
        except CheckFailed as failed:
            if not weakness:
                raise
            raise CheckSkipped(
                f"kept for comparison, with a known weakness ({weakness}): {failed}"
            ) from failed

    def _finds_backdoors(self) -> None:
        declared = self.settings.get("detects")
        unknown = sorted(set(declared or ()) - set(BACKDOORS))
        if unknown or (declared is not None and not declared):
            raise CheckFailed(f"detects must name some of {', '.join(BACKDOORS)}, not {declared!r}")
        found, said = [], []
        for name in BACKDOORS:
            wanted = declared is not None and name in declared
            why = self._inapplicable(name)
            if why is not None:
                if wanted:
                    raise CheckFailed(f"it should detect the {name} backdoor, but {why}")
                said.append(f"{name}: {why}")
                continue
            verdict = self._verdict(name)
            said.append(f"{name}: {verdict.outcome}")
            if verdict.outcome is Outcome.FINDING:
                found.append(name)
                self._check_target(name, verdict)
            elif wanted:
                raise CheckFailed(
                    f"on the {name} backdoor it says {verdict.outcome}, not finding: {verdict.summary}"
                )
        if not found:
            raise CheckFailed(f"it finds no backdoor at all ({'; '.join(said)})")

    def check_negative_control(self) -> None:
        """It says clean on every clean toy that it applies to, at least on one."""
        self._or_weakness(self._calls_clean_clean)

    def _calls_clean_clean(self) -> None:
        excused = self.settings.get("inconclusive", {})
        if not all(name in CLEAN and reason for name, reason in excused.items()):
            raise CheckFailed(f"inconclusive must map some of {', '.join(CLEAN)} to a reason")
        clean, said = [], []
        for name in CLEAN:
            why = self._inapplicable(name)
            if why is not None:
                said.append(f"{name}: {why}")
                continue
            verdict = self._verdict(name)
            said.append(f"{name}: {verdict.outcome}")
            if verdict.outcome is Outcome.CLEAN:
                clean.append(name)
            elif not (verdict.outcome is Outcome.INCONCLUSIVE and name in excused):
                raise CheckFailed(f"on the toy {name} it says {verdict.outcome}: {verdict.summary}")
        if not clean:
            raise CheckFailed(f"it calls no clean toy clean ({'; '.join(said)})")

    def check_determinism(self) -> None:
        """The same seed gives the same verdict, to the last digit."""
        name, first = self._example()
        again = self._again(name, "the second run").verdict
        assert again is not None
        if _comparable(first) != _comparable(again):
            raise CheckFailed(f"two runs with one seed differ ({name}): {_difference(first, again)}")

    def check_neighbours(self) -> None:
        """Its verdict is the same alone and with another problem in its batches."""
        name, alone = self._example()
        together = self._again(name, "beside another problem", beside=with_neighbour).verdict
        assert together is not None
        self._check_same(alone, together, f"beside another problem ({name})")

    def check_out_of_memory(self) -> None:
        """When towers run out of memory, its verdict stands."""
        name, before = self._example()
        at = control(name)
        short = self._again(
            name,
            "when a tower runs out of memory",
            suspect=starved(at.suspect),
            reference=starved(at.reference),
            wrap=starving,
        ).verdict
        assert short is not None
        self._check_same(before, short, f"after running out of memory ({name})")

    def check_cancellation(self) -> None:
        """Closed midway, it ends at once and leaves nothing running."""
        name, _ = self._example()
        steps = self._runs[name].steps
        if steps == 0:
            raise CheckSkipped("it is a plain function, which cannot be cancelled; a generator can")
        runs = []
        for after in sorted({1, max(1, steps // 2), steps}):
            runs.append(self._run(name, wrap=lambda problem, after=after: cut_after(problem, after)))
        runs.append(self._run(name, beside=cancelled))
        for run in runs:
            if run.error is not None:
                raise CheckFailed(f"closing it raises {_described(run.error)}")
            if run.watch.children:
                raise CheckFailed(f"closed midway, it leaves {run.watch.children[0]}")
            if run.watch.state:
                raise CheckFailed(f"closed midway, it leaves {run.watch.state[0]} changed")

    def check_round_trip(self) -> None:
        """Its verdicts survive being written as JSON and read again."""
        for name, verdict in self._verdicts().items():
            try:
                text = json.dumps(verdict_to_json(verdict), allow_nan=False)
                again = verdict_from_json(json.loads(text))
            except (ClipsecError, TypeError, ValueError, AttributeError) as error:
                raise CheckFailed(f"the verdict on {name} cannot be stored: {error}") from error
            if json.dumps(verdict_to_json(again)) != text:
                raise CheckFailed(f"the verdict on {name} is another one once read again")

    def check_finite_numbers(self) -> None:
        """Scores, thresholds and measures are finite numbers."""
        for name, verdict in self._verdicts().items():
            numbers: dict[str, Any] = {"score": verdict.score, "threshold": verdict.threshold}
            numbers |= {f"measure {key}": value for key, value in verdict.measures.items()}
            for item in verdict.evidence:
                numbers |= {f"{key} of {item.name}": value for key, value in item.measures.items()}
            for what, value in numbers.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise CheckFailed(f"on {name} its {what} is {value}")

    def check_towers_untouched(self) -> None:
        """It changes neither towers nor prompts nor pictures."""
        runs = self._all_runs()
        if not runs:
            raise CheckSkipped(_NOT_RUN)
        for name, run in runs.items():
            if run.changed:
                raise CheckFailed(f"on {name} it changes the {run.changed[0]}")

    # How verdicts are come by

    def _run(self, name: str, **how: Any) -> Run:
        return run_detector(self.make, self.options(), control(name), self.new_folder(), **how)

    def _control_run(self, name: str) -> Run:
        if name not in self._runs:
            self._runs[name] = self._run(name)
        run: Run = self._runs[name]
        return run

    def _inapplicable(self, name: str) -> str | None:
        """Why the detector does not apply to a control; None when it does."""
        missing = sorted(frozenset(self.fact("needs")) - control(name).offers)
        if missing:
            return f"it needs what the toy has not: {', '.join(missing)}"
        error = self._control_run(name).error
        return f"it says that it does not apply: {error}" if isinstance(error, NotApplicableError) else None

    def _verdict(self, name: str, run: Run | None = None, where: str = "") -> Verdict:
        run = run or self._control_run(name)
        where = where or f"on the toy {name}"
        if run.error is not None:
            raise CheckFailed(f"{where} it raises {_described(run.error)}") from run.error
        if run.verdict is None or not isinstance(run.verdict.outcome, Outcome):
            raise CheckFailed(f"{where} it returns {run.value!r}, not a Verdict with an Outcome")
        if run.verdict.outcome is Outcome.ERROR:
            raise CheckFailed(f"{where} it says error: {run.verdict.summary}")
        return run.verdict

    def _all_runs(self) -> dict[str, Run]:
        return {
            name: self._control_run(name) for name in (*BACKDOORS, *CLEAN) if self._inapplicable(name) is None
        }

    def _watches(self) -> dict[str, Watch]:
        return {name: run.watch for name, run in self._all_runs().items()}

    def _verdicts(self) -> dict[str, Verdict]:
        found = {name: run.verdict for name, run in self._all_runs().items() if run.verdict is not None}
        if not found:
            raise CheckSkipped(_NOT_RUN)
        return {name: verdict for name, verdict in found.items() if verdict is not None}

    def _example(self) -> tuple[str, Verdict]:
        """The control for what is run again: the first that it found something in, else the first verdict."""
        verdicts = self._verdicts()
        name = next((n for n, v in verdicts.items() if v.outcome is Outcome.FINDING), next(iter(verdicts)))
        return name, verdicts[name]

    def _again(self, name: str, where: str, **how: Any) -> Run:
        run = self._run(name, **how)
        self._verdict(name, run, where)
        return run

    def _check_same(self, before: Verdict, after: Verdict, where: str) -> None:
        tolerance = float(self.settings.get("tolerance", 1e-3))
        if (before.outcome, before.target_index) != (after.outcome, after.target_index):
            raise CheckFailed(f"{where} its verdict is another: {_difference(before, after)}")
        if (before.score is None) != (after.score is None) or (
            before.score is not None
            and after.score is not None
            and abs(before.score - after.score) > tolerance * max(1.0, abs(before.score))
        ):
            raise CheckFailed(f"{where} its score is {after.score}, not {before.score}")

    def _check_target(self, name: str, verdict: Verdict) -> None:
        trigger = control(name).model.trigger
        assert trigger is not None
        if verdict.target_index is not None and verdict.target_index != trigger.target_index:
            raise CheckFailed(
                f"on the {name} backdoor it names class {verdict.target_index} as the target; it is "
                f"{trigger.target_index}"
            )


def _comparable(verdict: Verdict) -> dict[str, Any]:
    """Everything of a verdict that a repetition must give again. Not its cost, nor the digests of its files:
    safetensors writes the metadata of one tensor in any order."""
    plain = attrs.asdict(attrs.evolve(verdict, cost=Cost()))
    return {name: repr(_without_digests(value)) for name, value in plain.items()}


def _without_digests(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_digests(item) for key, item in value.items() if key != "sha256"}
    if isinstance(value, list | tuple):
        return [_without_digests(item) for item in value]
    return value


def _difference(first: Verdict, second: Verdict) -> str:
    before, after = _comparable(first), _comparable(second)
    name = next(name for name in before if before[name] != after[name])
    return f"{name} is {before[name][:60]}, then {after[name][:60]}"


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
