"""What the sanity gate of a run is shown, and that a model which knows nothing does not pass it."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch

from clipsec.data import ImagePool, LabelledSet
from clipsec.models import Suspect, load_suspect
from clipsec.results import Outcome
from clipsec.runner import audit
from clipsec.runner._gate import FLOOR_PICTURES, few_pictures, gate_of
from clipsec_registry import Registry
from clipsec_testkit import Toys
from clipsec_zoo import labelled_pictures_folder


@pytest.fixture(scope="module")
def mini() -> Suspect:
    return load_suspect("zoo:mini")


@pytest.fixture
def ignorant() -> Suspect:
    """mini with the dimensions of its image features in another order: still finite, still varied."""
    suspect = load_suspect("zoo:mini")
    visual = suspect.base.visual
    assert visual is not None
    projection = [module for module in visual.module.modules() if isinstance(module, torch.nn.Linear)][-1]
    order = torch.randperm(len(projection.weight), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        projection.weight.copy_(projection.weight[order])
    return suspect


def zero_shot_check(suspect: Suspect, labelled: LabelledSet | None = None) -> tuple[bool, str]:
    gate = gate_of(suspect, None, labelled, Registry())
    return gate.passed, gate.checks["zero-shot"]


def test_a_sound_model_matches_the_shipped_pictures(mini: Suspect) -> None:
    """Without --labelled, the zero-shot floor is measured on what an installed plugin ships."""
    passed, told = zero_shot_check(mini)
    assert passed
    assert told.endswith("(pictures of clipsec-zoo)")


def test_a_model_whose_towers_do_not_fit_together_fails(ignorant: Suspect) -> None:
    """Every other check passes it; only pictures with labels tell."""
    gate = gate_of(ignorant, None, None, Registry())
    failed = [name for name, told in gate.checks.items() if told.startswith("failed")]
    assert failed == ["zero-shot"]
    assert "--labelled FOLDER" in gate.reason


def test_a_model_of_another_domain_passes_on_pictures_of_its_own(toy_clips: Toys) -> None:
    """Pictures that the user brings replace the everyday ones."""
    toy = toy_clips["clean"].fresh()
    assert not zero_shot_check(toy)[0]
    passed, told = zero_shot_check(toy, toy_clips.labelled)
    assert passed
    assert told.endswith("(pictures of --labelled)")


def test_pictures_of_one_class_are_no_floor(mini: Suspect) -> None:
    """One class cannot be mistaken, so the shipped pictures are taken."""
    one = LabelledSet.from_folder(labelled_pictures_folder()).choose([3])
    assert zero_shot_check(mini, one)[1].endswith("(pictures of clipsec-zoo)")


def test_nobody_s_pictures_are_said_to_be_missing(mini: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor that was not measured is no passed check in silence."""
    registry = Registry()
    monkeypatch.setattr(registry, "records", lambda kind=None: [])
    gate = gate_of(mini, None, None, registry)
    assert gate.checks["zero-shot"].startswith("not measured")


def test_a_failed_floor_leaves_no_verdict(ignorant: Suspect, tmp_path: Path) -> None:
    """Whatever the detectors say, the run is inconclusive."""
    pool = ImagePool.from_folder(labelled_pictures_folder())
    few = attrs.evolve(pool, paths=pool.paths[:4])
    result = audit(ignorant, pool=few, runs=tmp_path / "runs", shared=tmp_path / "shared")
    assert result.outcome is not Outcome.CLEAN
    assert {verdict.outcome for verdict in result.verdicts.values()} <= {
        Outcome.INCONCLUSIVE,
        Outcome.SKIPPED,
        Outcome.ERROR,
    }


@pytest.mark.parametrize(("classes", "each"), [(2, 100), (16, 3), (63, 2), (64, 1), (200, 2)])
def test_a_few_dozen_pictures_over_as_many_classes_as_possible(classes: int, each: int) -> None:
    """At most 64 pictures, each class of up to 64 among them, the same every time."""
    paths = tuple(Path(f"{label}/{i}.jpg") for label in range(classes) for i in range(each))
    labels = tuple(label for label in range(classes) for _ in range(each))
    labelled = LabelledSet("set", paths, labels, tuple(f"class {i}" for i in range(classes)))
    few = few_pictures(labelled)
    assert len(few) <= FLOOR_PICTURES
    assert len({few.class_names[label] for label in few.labels}) == min(classes, FLOOR_PICTURES)
    assert few.paths == few_pictures(labelled).paths
