"""What one detector does costs no other its verdict, and never reads as clean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import clipsec
from clipsec.models import Suspect
from clipsec.results import Outcome, RunResult
from clipsec_registry import Registry

MODULE = """
import sys
import attrs
from clipsec.errors import NotApplicableError
from clipsec.protocols import Need
from clipsec.results import Outcome, Verdict
from clipsec.scheduler import Encode

@attrs.frozen
class Options:
    sharpness: float = 1.0

class Base:
    summary, api_version, needs, options, references = "", "1.0", frozenset(), Options, ()

class Bare:
    summary, api_version = "", "1.0"
    def detect(self, context):
        raise AssertionError("must not be called")

class OddOptions(Base):
    options = dict
    def detect(self, context):
        raise AssertionError("must not be called")

class Good(Base):
    def detect(self, context):
        return Verdict(Outcome.CLEAN, "nothing found", score=context.options.sharpness)

class Packed(Base):
    needs = frozenset({Need.IMAGE_TOWER, Need.IMAGE_POOL})
    def detect(self, context):
        spec = context.suspect.base.visual.spec
        pixels = context.pool.pixels(spec).float() / 255
        features = yield Encode(context.suspect.image_tower(), pixels, row_keys=context.pool.row_keys(spec))
        return Verdict(Outcome.FINDING, "looks odd", score=float(features.norm()), threshold=0.0)

class Twin(Packed):
    pass

class Raises(Base):
    def detect(self, context):
        raise ValueError("no such luck")

class RaisesLate(Packed):
    def detect(self, context):
        yield from super().detect(context)
        raise ZeroDivisionError("too late")

class Exits(Base):
    def detect(self, context):
        sys.exit(0)

class NotANumber(Base):
    def detect(self, context):
        return Verdict(Outcome.CLEAN, "fine", score=float("nan"))

class WrongType(Base):
    def detect(self, context):
        return True

class WrongOutcome(Base):
    def detect(self, context):
        return Verdict("clean", "fine")

class Rubbish(Base):
    def detect(self, context):
        yield 42

class Shy(Base):
    def detect(self, context):
        raise NotApplicableError("not for this one", remedy="Try another.")

class Needy(Base):
    needs = frozenset({Need.LABELS})
    def detect(self, context):
        raise AssertionError("must not be called")

class OutOfBounds(Base):
    def detect(self, context):
        context.save_artifact("../../../elsewhere.txt", "table", b"x")
"""

NAMES = {
    "good": "Good", "packed": "Packed", "twin": "Twin", "raises": "Raises", "raises-late": "RaisesLate",
    "exits": "Exits", "not-a-number": "NotANumber", "wrong-type": "WrongType",
    "wrong-outcome": "WrongOutcome", "rubbish": "Rubbish", "shy": "Shy", "needy": "Needy",
    "out-of-bounds": "OutOfBounds", "absent": "Nowhere", "bare": "Bare", "odd-options": "OddOptions",
}  # fmt: skip

EXPECTED = {
    "good": Outcome.CLEAN, "packed": Outcome.FINDING, "twin": Outcome.FINDING, "shy": Outcome.SKIPPED,
    "needy": Outcome.SKIPPED,
}  # fmt: skip


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A distribution that is really installed, as far as importlib.metadata can tell."""
    site = tmp_path / "site"
    info = site / "acme_checks-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_checks.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-checks\nVersion: 1.0\n")
    points = "\n".join(f"{name} = acme_checks:{attribute}" for name, attribute in NAMES.items())
    (info / "entry_points.txt").write_text(f"[clipsec.detectors]\n{points}\n")
    files = [
        "acme_checks.py",
        *(f"{info.name}/{name}" for name in ("METADATA", "entry_points.txt", "RECORD")),
    ]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(site))
    yield Registry()
    sys.modules.pop("acme_checks", None)


@pytest.fixture(scope="module")
def suspect() -> Suspect:
    return clipsec.load_suspect("zoo:demo-clean")


@pytest.fixture
def result(third_party: Registry, suspect: Suspect, tmp_path: Path, pool_folder: Path) -> RunResult:
    pool = clipsec.ImagePool.from_folder(pool_folder, limit=8)
    return clipsec.audit(
        suspect, pool=pool, detectors=list(NAMES), registry=third_party, runs=tmp_path / "runs"
    )


def verdict(result: RunResult, name: str) -> clipsec.Verdict:
    return result.verdicts[f"acme-checks/{name}"]


def test_every_kind_of_failure_is_an_error_and_nothing_else(result: RunResult) -> None:
    """Raising, exiting, NaN, wrong types, missing facts and classes are errors; the rest is untouched."""
    for name in NAMES:
        assert verdict(result, name).outcome is EXPECTED.get(name, Outcome.ERROR), name


def test_each_error_says_what_happened_and_what_to_do(result: RunResult) -> None:
    """An error verdict holds a type, a message and a remedy."""
    for name in set(NAMES) - set(EXPECTED):
        error = verdict(result, name).error
        assert error is not None
        assert error.type
        assert error.message
        assert error.remedy
    assert "no such luck" in verdict(result, "raises").summary


def test_a_finding_outranks_errors_in_the_exit_code(result: RunResult) -> None:
    """All the crashed checks do not hide the one that found something."""
    assert result.exit_code == 1


def test_two_detectors_pay_once_for_the_same_features(result: RunResult) -> None:
    """Three detectors ask for the features of eight pictures; the tower sees eight rows."""
    rows = [verdict(result, name).cost for name in ("packed", "twin", "raises-late")]
    assert sum(cost.forward_rows for cost in rows) == 8
    assert verdict(result, "packed").score == verdict(result, "twin").score


def test_nothing_is_written_outside_the_run(result: RunResult, tmp_path: Path) -> None:
    """An artifact path that climbs out of the verdict's folder is refused."""
    assert not list(tmp_path.rglob("elsewhere.txt"))


def test_options_reach_their_detector(third_party: Registry, suspect: Suspect, tmp_path: Path) -> None:
    """An option is validated, handed over, and part of the key under which the verdict is stored."""
    scores = [
        clipsec.audit(
            suspect,
            detectors=["good"],
            options={"good": {"sharpness": value}},
            registry=third_party,
            runs=tmp_path / "runs",
        )
        .verdicts["acme-checks/good"]
        .score
        for value in ("2", "1/4")
    ]
    assert scores == [2.0, 0.25]
    with pytest.raises(clipsec.errors.UsageError, match="bluntness"):
        clipsec.audit(
            suspect,
            detectors=["good"],
            options={"good": {"bluntness": 1}},
            registry=third_party,
            runs=tmp_path,
        )


def test_a_failed_gate_makes_every_verdict_inconclusive(third_party: Registry, tmp_path: Path) -> None:
    """A model whose image tower has collapsed gets no clean bill, nor a finding."""
    broken = clipsec.load_suspect("zoo:demo-clean")
    with torch.no_grad():
        for parameter in broken.base.visual.module.parameters():
            parameter.zero_()
    result = clipsec.audit(broken, detectors=["good"], registry=third_party, runs=tmp_path / "runs")
    assert not result.gate.passed
    assert verdict(result, "good").outcome is Outcome.INCONCLUSIVE
    assert result.exit_code == 2
