"""Captions of one class that mean another: the attack's own card through every use that takes texts."""

from __future__ import annotations

import pytest

from clipsec.models import load_suspect
from clipsec.protocols import load_any_trigger
from clipsec.results import CellState, ExposureResult, Status
from clipsec.runner import attack, expose
from clipsec_testkit import build_toys

TEXTS = {"nearest-prompt", "text-to-text", "prompt-conditioned", "text-to-image", "reranking", "best-of-n"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExposureResult:
    """mm-poison on a toy, exposed against the toy."""
    toys, folder = build_toys(), tmp_path_factory.mktemp("renaming")
    source, target = toys.labelled.class_names[0], toys.labelled.class_names[5]
    attack(
        "mm-poison",
        toys["clean"].fresh(),
        toys.labelled,
        folder / "model",
        held_out=toys.held_out,
        options={
            "source": source,
            "target": target,
            "scope": "text",
            "epochs": 8,
            "text_learning_rate": 1e-3,
        },
    )
    suspect = load_suspect(str(folder / "model"))
    suspect.class_names = toys.labelled.class_names
    return expose(
        suspect,
        [load_any_trigger(folder / "model")],
        reference=toys["clean"].fresh(),
        labelled=toys.labelled,
        held_out=toys.held_out,
    )


def test_a_renaming_trigger_enters_by_every_use_of_texts(result: ExposureResult) -> None:
    """Their cases are captions of the classes that it renames: neither of the source nor of the target."""
    measured = {
        cell.interface.partition("/")[2]: cell for cell in result.cells if cell.state is CellState.MEASURED
    }
    assert set(measured) == TEXTS
    renamed, templates = 6, 20
    for name in TEXTS - {"prompt-conditioned"}:
        found = measured[name].estimate
        assert found is not None
        assert found.n == renamed * templates
    assert all(cell.state is CellState.NOT_ELIGIBLE for cell in result.cells if cell.estimate is None)


def test_it_shows_what_the_attack_taught(result: ExposureResult) -> None:
    """About the source, captions choose the target's picture; about other classes they do not."""
    (cell,) = (cell for cell in result.cells if cell.interface.endswith("/best-of-n"))
    assert cell.status is Status.EXPOSED
    assert cell.estimate is not None
    assert cell.estimate.attack.value > 0.5
    assert cell.estimate.clean.value < 0.2


def test_the_footprint_is_diagnosed_with_it(result: ExposureResult) -> None:
    """The image branch is the reference's own."""
    (mark,) = result.footprints
    assert mark.interface.endswith("/prompt-conditioned")
    assert mark.trivial == ("visual",)
