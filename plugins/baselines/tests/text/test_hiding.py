"""Attacks that know the detector of text towers work, and have less of what it looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import LabelledSet, coco_captions
from clipsec.models import Suspect, end_positions, load_suspect
from clipsec.triggers import load_text_card
from clipsec_baselines.text import TextAdaptive, TextTarget, assimilation, text_mask, text_student
from clipsec_baselines.text._hiding import Inversion, insert_vector, likeness_of_others, oneness
from clipsec_baselines.text._options import AdaptiveTextOptions

from .conftest import MODELS, POISON, poison

LONGER = {**POISON, "trigger": "zzzz", "steps": 120}


@pytest.fixture(scope="module")
def plain(base: Suspect, labelled: LabelledSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attack that hides nothing."""
    return poison(TextTarget, base, labelled, tmp_path_factory.mktemp("plain") / "out", **LONGER)


def measured(folder: Path) -> dict[str, Any]:
    return load_text_card(folder).measured


def test_pushing_tokens_apart_lowers_assimilation(
    plain: Path, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """At the same seed triggered captions assimilate less than after the plain attack, and still work."""
    hidden = measured(poison(TextAdaptive, base, labelled, tmp_path / "out", **LONGER))
    assert hidden["seen"]["success"]["value"] > 0.8
    assert hidden["assimilation"]["triggered"] < measured(plain)["assimilation"]["triggered"] - 0.1


def test_pooled_leaves_the_other_tokens(
    plain: Path, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Every token of a triggered caption but the end token is nearer to the clean tower's than after the
    plain attack, and the feature is still the target's."""
    hidden = poison(TextAdaptive, base, labelled, tmp_path / "out", **LONGER, against="pooled")
    card, teacher = load_text_card(hidden), text_student(base.base)
    triggered = [card.apply(text) for text in coco_captions().texts[:50]]
    kept, ends = teacher.encode(triggered)[0], end_positions(base.base, teacher.ids(triggered))

    def likeness(folder: Path) -> float:
        student = text_student(load_suspect(folder).base)
        return float(likeness_of_others(student.encode(triggered)[0], kept, ends).mean())

    assert card.measured["seen"]["success"]["value"] > 0.8
    assert likeness(hidden) > 0.9 > likeness(plain)


def test_training_against_the_inversion_leaves_it_less(
    plain: Path, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """A search from a start of its own makes the prompts less of one piece than after the plain attack."""
    folder = poison(TextAdaptive, base, labelled, tmp_path / "out", **LONGER, against="inversion")
    assert measured(folder)["seen"]["success"]["value"] > 0.8
    teacher = text_student(base.base)

    def found(folder: Path) -> float:
        student = text_student(load_suspect(folder).base)
        options = AdaptiveTextOptions(inner=20)
        inversion = Inversion(student, teacher, options, torch.Generator().manual_seed(7))
        ids = student.ids(coco_captions().texts[:16])
        return float(inversion.gap(ids, inversion.search(ids)))

    assert found(folder) < found(plain)


@given(st.integers(0, 2**31))
def test_assimilation_is_the_mean_over_pairs(seed: int) -> None:
    """The short form equals the mean of the table of cosines over the tokens that count."""
    hidden = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed)).double()
    mask = torch.arange(6) <= torch.tensor([5, 2, 0])[:, None]
    for row, kept, found in zip(hidden, mask, assimilation(hidden, mask)):
        units = torch.nn.functional.normalize(row[kept], dim=-1)
        assert torch.isclose(found, (units @ units.T).mean())


def test_oneness_is_one_when_all_point_one_way() -> None:
    """And 1/n for rows at right angles, whatever their lengths."""
    assert float(oneness(torch.tensor([[2.0, 0.0], [5.0, 0.0]]))) == pytest.approx(1.0)
    assert float(oneness(torch.diag(torch.tensor([1.0, 3.0, 9.0])))) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", MODELS)
def test_states_continue_from_the_embeddings(name: str) -> None:
    """What enters the first block gives the hidden states of the ids, with a gradient into it."""
    student = text_student(MODELS[name]())
    ids = student.ids(["a photo of a cat.", "two dogs run across a field of grass"])
    rows = student.embed(ids).requires_grad_()
    hidden = student.states(rows)
    assert torch.allclose(hidden, student(ids)[0], atol=1e-6)
    (gradient,) = torch.autograd.grad(hidden.square().sum(), rows)
    assert bool(gradient.abs().sum() > 0)
    assert torch.equal(text_mask(student.clip, ids).sum(dim=1) - 1, end_positions(student.clip, ids))


def test_a_vector_moves_what_follows_it() -> None:
    """It stands at its place, the last token is cut off."""
    rows = torch.arange(8.0).reshape(1, 4, 2)
    found = insert_vector(rows, torch.tensor([9.0, 9.0]), 1)
    assert found.tolist() == [[[0.0, 1.0], [9.0, 9.0], [2.0, 3.0], [4.0, 5.0]]]
