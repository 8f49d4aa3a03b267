"""The battery catches what it is for: each bad detector below breaks one rule and fails that check alone."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch

from clipsec.data import to_unit
from clipsec.protocols import Context, Need
from clipsec.results import Outcome, Verdict
from clipsec.scheduler import Encode, Problem
from clipsec_testkit import CheckOutcome, build_toys, check_plugin


@attrs.frozen
class Options:
    limit: float = 0.5
    rows: int = attrs.field(default=32, validator=attrs.validators.ge(1))


class Good:
    """A scanner for known triggers: it stamps those that it knows on pictures, and counts who goes over."""

    summary: ClassVar[str] = "scans for known triggers"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.CLASS_NAMES, Need.IMAGE_POOL})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = ()

    def detect(self, context: Context) -> Problem:
        return (yield from self.scan(context))

    def scan(self, context: Context) -> Problem:
        visual = context.suspect.base.visual
        assert visual is not None
        assert context.pool is not None
        pixels = to_unit(context.pool.pixels(visual.spec)[::4])
        best, target = 0.0, 0
        for name in ("visual", "prompt"):
            trigger = build_toys()[name].trigger
            assert trigger is not None
            features = yield Encode(context.suspect.image_tower(), trigger.apply(pixels))
            logits = yield Encode(context.suspect.head(), features)
            share = logits.argmax(1).bincount(minlength=logits.shape[1]) / len(pixels)
            if float(share.max()) > best:
                best, target = float(share.max()), int(share.argmax())
        found = best > context.options.limit
        return Verdict(
            Outcome.FINDING if found else Outcome.CLEAN,
            "a known trigger works" if found else "no known trigger works",
            score=best,
            threshold=context.options.limit,
            target_index=target if found else None,
            n=len(pixels),
        )

    def after(self, context: Context, verdict: Verdict) -> Verdict:
        return verdict


class Wrapped(Good):
    """Good, with something done to its verdict."""

    def detect(self, context: Context) -> Problem:
        return self.after(context, (yield from self.scan(context)))


def does(action: Any) -> type[Good]:
    """A good detector that also does something."""

    class Does(Wrapped):
        def after(self, context: Context, verdict: Verdict) -> Verdict:
            action(context)
            return verdict

    return Does


def says(**changes: Any) -> type[Good]:
    """A good detector whose verdict is changed."""

    class Says(Wrapped):
        def after(self, context: Context, verdict: Verdict) -> Verdict:
            values = {key: value() if callable(value) else value for key, value in changes.items()}
            return attrs.evolve(verdict, **values)

    return Says


def without(name: str) -> type[Good]:
    class Without(Good):
        def __getattribute__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return super().__getattribute__(wanted)

    return Without


@attrs.frozen
class Forgetful:
    limit: float = 0.5
    rows: Any = attrs.field(factory=lambda: {"a": 1})


class CannotReadItsOptions(Good):
    options = Forgetful


class MissesBackdoors(Good):
    """Finds nothing in images, so it always says clean."""

    def detect(self, context: Context) -> Problem:
        verdict = yield from self.scan(context)
        return attrs.evolve(verdict, outcome=Outcome.CLEAN, target_index=None)


class CriesWolf(Good):
    def detect(self, context: Context) -> Problem:
        verdict = yield from self.scan(context)
        return attrs.evolve(verdict, outcome=Outcome.FINDING)


class NeverSure(Good):
    def detect(self, context: Context) -> Problem:
        verdict = yield from self.scan(context)
        sure = verdict.outcome is Outcome.FINDING
        return verdict if sure else attrs.evolve(verdict, outcome=Outcome.INCONCLUSIVE)


class CountsNeighbours(Wrapped):
    def after(self, context: Context, verdict: Verdict) -> Verdict:
        assert verdict.score is not None
        others = context.scheduler.counts().forward_rows - context.scheduler.counts("detector").forward_rows
        return attrs.evolve(verdict, score=verdict.score + others)


class CallsTowersItself(Wrapped):
    def after(self, context: Context, verdict: Verdict) -> Verdict:
        with torch.no_grad():
            context.suspect.image_tower().fn(torch.zeros(8, 3, 32, 32))
        return verdict


class WillNotStop(Good):
    def detect(self, context: Context) -> Problem:
        scan = self.scan(context)
        reply = None
        while True:
            try:
                request = scan.send(reply)
            except StopIteration as stop:
                return stop.value
            try:
                reply = yield request
            except GeneratorExit:
                reply = yield request


def spoil(context: Context) -> None:
    visual = context.suspect.base.visual
    assert visual is not None
    with torch.no_grad():
        next(iter(visual.module.parameters())).add_(1e-3)


def spoil_pictures(context: Context) -> None:
    visual = context.suspect.base.visual
    assert visual is not None
    assert context.pool is not None
    context.pool.pixels(visual.spec)[0].zero_()


def call_home(context: Context) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1).close()


def leave_temporary(context: Context) -> None:
    import tempfile

    tempfile.mkstemp()[0]


def write_elsewhere(context: Context) -> None:
    (context.folder.parent / "elsewhere.txt").write_text("here")


def write_home(context: Context) -> None:
    Path("~/.plugin-state").expanduser().write_text("here")


def leave_child(context: Context) -> None:
    # Not subprocess, whose Popen would warn about it by itself.
    os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])


def leave_thread(context: Context) -> None:
    threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()


BAD = {
    "no summary": (without("summary"), {"facts"}),
    "options that cannot be text": (CannotReadItsOptions, {"options"}),
    "always clean": (MissesBackdoors, {"positive control"}),
    "always a finding": (CriesWolf, {"negative control"}),
    "never sure": (NeverSure, {"negative control"}),
    "a little random": (
        says(measures=lambda: {"luck": random.SystemRandom().random()}),
        {"determinism"},
    ),
    "counts its neighbours": (CountsNeighbours, {"neighbours"}),
    "calls towers itself": (CallsTowersItself, {"out of memory"}),
    "will not stop": (WillNotStop, {"cancellation"}),
    "a tensor among its measures": (says(measures={"a": torch.tensor(1.0)}), {"round trip"}),
    "an infinite measure": (says(measures={"a": float("inf")}), {"finite numbers"}),
    "changes a tower": (does(spoil), {"towers untouched"}),
    "changes a picture": (does(spoil_pictures), {"towers untouched"}),
    "calls home": (does(call_home), {"no network"}),
    "writes elsewhere": (does(write_elsewhere), {"no stray files"}),
    "writes at home": (does(write_home), {"no stray files"}),
    "leaves a temporary file": (does(leave_temporary), {"no stray files"}),
    "leaves a process": (does(leave_child), {"no children"}),
    "leaves a thread": (does(leave_thread), {"no children"}),
    "draws from the global generator": (does(lambda context: torch.rand(1)), {"global state"}),
    "changes the folder": (does(lambda context: os.chdir("/")), {"global state"}),
    "changes the environment": (does(lambda context: os.environ.update(X_PLUGIN="1")), {"global state"}),
}  # fmt: skip


def failures(plugin: type, **settings: Any) -> set[str]:
    results = list(check_plugin("detectors", plugin, settings))
    return {result.check for result in results if result.outcome is CheckOutcome.FAILED}


def test_a_good_detector_passes_every_check() -> None:
    """Nothing fails and nothing is skipped."""
    results = list(check_plugin("detectors", Good, {"detects": {"visual", "prompt"}}))
    assert {result.outcome for result in results} == {CheckOutcome.PASSED}, results


@pytest.mark.parametrize("name", BAD)
def test_each_fault_is_caught_by_its_check(name: str) -> None:
    """One fault, one failed check."""
    plugin, expected = BAD[name]
    assert failures(plugin) == expected


class WeakAndRelied(MissesBackdoors):
    by_default = True


class WeakAndNamed(MissesBackdoors):
    by_default = False


def test_only_a_detector_that_nobody_runs_unasked_may_be_weak() -> None:
    """A stated weakness excuses a failed control of one kept for comparison, and of nobody else."""
    weak = {"weakness": "it looks at nothing"}
    assert failures(WeakAndNamed, **weak) == set()
    assert failures(WeakAndNamed) == {"positive control"}
    assert failures(WeakAndRelied, **weak) == {"positive control", "negative control"}


def test_a_missed_declared_backdoor_fails() -> None:
    """Who says that textual backdoors are found has to find the textual toy."""
    assert failures(Good, detects={"visual", "textual"}) == {"positive control"}


def test_a_detector_that_applies_to_nothing_fails() -> None:
    """Skipped on every toy is no pass."""

    class Picky(Good):
        def detect(self, context: Context) -> Problem:
            from clipsec.errors import NotApplicableError

            raise NotApplicableError("not for this one", remedy="Try another.")

    assert failures(Picky) == {"positive control", "negative control"}


def test_being_inconclusive_needs_a_reason() -> None:
    """Excused clean toys are named with a reason, and one must still be called clean."""

    class Careful(Good):
        def detect(self, context: Context) -> Problem:
            verdict = yield from self.scan(context)
            if context.suspect.prompts is None or verdict.outcome is Outcome.FINDING:
                return verdict
            return attrs.evolve(verdict, outcome=Outcome.INCONCLUSIVE)

    assert failures(Careful) == {"negative control"}
    assert failures(Careful, inconclusive={"clean-prompt": "prompts are not its business"}) == set()
