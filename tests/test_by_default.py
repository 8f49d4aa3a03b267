"""A detector that is there for comparison runs only when somebody asks for it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from clipsec.isolation import Limits
from clipsec.results import Outcome
from clipsec.runner._detectors import Chosen, choose_detectors, described
from clipsec.runner._isolated import Workers
from clipsec.store import RunStore, UnitStore
from clipsec_registry import Registry

MODULE = """
import attrs

@attrs.frozen
class Options:
    pass

class Weak:
    summary, api_version, needs, options, references = "a baseline", "1.0", frozenset(), Options, ()
    by_default = False

    def detect(self, context):
        raise AssertionError
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """One installed detector that says `by_default = False`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "weak_detector.py").write_text(MODULE)
    metadata = tmp_path / "weak_detector-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: weak-detector\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[clipsec.detectors]\nweak = weak_detector:Weak\n")
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "weak_detector", raising=False)
    return Registry()


def weak(chosen: list[Chosen]) -> Chosen:
    return next(each for each in chosen if each.record.name == "weak")


def test_it_is_left_out_and_the_run_says_so(registry: Registry) -> None:
    """Skipped, with how to ask for it."""
    problem = weak(choose_detectors(registry, (), {})).problem
    assert problem is not None
    assert (problem.outcome, problem.notes) == (Outcome.SKIPPED, ("Ask for it with --detector weak.",))


def test_it_runs_when_it_is_named(registry: Registry) -> None:
    assert weak(choose_detectors(registry, ["weak"], {})).problem is None


@pytest.mark.parametrize("named", [True, False])
def test_the_same_in_a_process_of_its_own(registry: Registry, tmp_path: Path, named: bool) -> None:
    """The process has to import it before it can say so."""
    run = RunStore(tmp_path / "runs").run("suspect", "0" * 64)
    workers = Workers(["weak"], Limits(), run, UnitStore(tmp_path / "shared"), tmp_path)
    try:
        names = ["weak"] if named else []
        chosen = weak(choose_detectors(registry, names, {}, workers.start))
        problem = described(registry, chosen, named=named).problem
        assert (problem is None) is named
    finally:
        workers.close()
