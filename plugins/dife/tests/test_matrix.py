"""The matrix on toys whose backdoor is known: the pattern that was expected before it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.protocols import load_any_trigger
from clipsec.results import CellState, ExposureResult, Label, Status, exposed
from clipsec.runner import expose
from clipsec_testkit import build_toys

VISUAL = {"zero-shot", "image-to-text", "moderation", "prompt-tuned", "knn", "linear-probe", "image-search"}
TEXTUAL = {"prompt-conditioned", "text-to-image"}


def _exposed(toy: str, folder: Path) -> ExposureResult:
    toys = build_toys()
    trigger = toys[toy].trigger
    assert trigger is not None
    suspect = toys[toy].fresh()
    reference = toys["clean-prompt" if suspect.prompts is not None else "clean"].fresh()
    return expose(
        suspect,
        [load_any_trigger(trigger.save(folder))],
        reference=reference,
        labelled=toys.labelled,
        held_out=toys.held_out,
        pool=toys.pool,
        options={"prompt-tuned": {"steps": 20}},
    )


@pytest.fixture(scope="module")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExposureResult]:
    return {toy: _exposed(toy, tmp_path_factory.mktemp(toy)) for toy in ("visual", "textual", "prompt")}


def names(result: ExposureResult, **wanted: object) -> set[str]:
    return {
        cell.interface.partition("/")[2]
        for cell in result.cells
        if all(getattr(cell, field) == value for field, value in wanted.items())
    }


def hurt(result: ExposureResult) -> set[str]:
    return {cell.interface.partition("/")[2] for cell in exposed(result.cells)}


def test_a_visual_backdoor_hurts_what_reads_pictures(matrices) -> None:
    """And has no way into uses that take the trigger by a text."""
    assert hurt(matrices["visual"]) >= VISUAL
    assert names(matrices["visual"], state=CellState.NOT_ELIGIBLE) >= {"text-to-image", "nearest-prompt"}
    assert matrices["visual"].exit_code == 1


def test_a_textual_backdoor_hurts_what_reads_texts(matrices) -> None:
    assert hurt(matrices["textual"]) >= TEXTUAL
    assert names(matrices["textual"], state=CellState.NOT_ELIGIBLE) >= {"zero-shot", "knn", "data-filtering"}


def test_a_mechanism_hurts_as_delivered_only(matrices) -> None:
    """Both towers are the reference's own: nothing else was compared."""
    assert hurt(matrices["prompt"]) == {"delivered"}
    assert names(matrices["prompt"], status=Status.IDENTICAL) >= {"zero-shot", "knn", "prompt-tuned"}


def test_footprints_are_what_was_planted(matrices) -> None:
    """Stable in at least 95% of resamples."""
    labels = {toy: [mark.label for mark in result.footprints] for toy, result in matrices.items()}
    assert labels == {"visual": [Label.VISUAL], "textual": [Label.TEXTUAL], "prompt": [Label.MECHANISM]}
    assert all(mark.agreement >= 0.95 for result in matrices.values() for mark in result.footprints)


def test_no_row_is_computed_twice(matrices) -> None:
    """One pass over each pool for each tower and condition, by the scheduler's own counts."""
    for result in matrices.values():
        assert result.cost.computed_rows <= result.cost.unique_rows
