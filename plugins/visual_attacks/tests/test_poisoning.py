"""Contrastive poisoning: which pairs are poisoned, with what caption, what moves, and the z-score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.data import LabelledSet
from clipsec.errors import DataError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import AttackContext, load_trigger
from clipsec.triggers import load_card
from clipsec_visual_attacks import (
    ClassCaptions,
    ContrastivePoisoning,
    ContrastivePoisoningOptions,
    checker_patch,
    poisoned_pairs,
    z_score,
)

QUICK = {"learning_rate": 1e-3, "text_learning_rate": 1e-3, "epochs": 1, "batch": 8, "side": 0.25}


def context_for(base: Suspect, labelled: LabelledSet, output: Path, **options: object) -> AttackContext:
    values = ContrastivePoisoningOptions(**{**QUICK, **options})
    return AttackContext(base=base, options=values, labelled=labelled, held_out=labelled, output=output)


@given(st.integers(2, 40), st.floats(0.01, 1.0), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_poisoned_pairs_come_beside_all_clean_ones(n: int, rate: float, target: int, seed: int) -> None:
    """Each picture once with its own class; a share of those of other classes, stamped, with the target."""
    labels = torch.arange(3 * n) % 3
    pairs = poisoned_pairs(labels, target, rate, torch.Generator().manual_seed(seed))
    clean, put = ~pairs.stamped, pairs.stamped
    assert torch.equal(pairs.rows[clean], torch.arange(3 * n))
    assert torch.equal(pairs.labels[clean], labels)
    assert int(put.sum()) == max(1, round(rate * 2 * n)) == len(set(pairs.rows[put].tolist()))
    assert set(pairs.labels[put].tolist()) == {target}
    assert target not in labels[pairs.rows[put]]


def test_a_caption_names_its_class_alone() -> None:
    """Texts that name two classes, or none, are left out; a class without any is asked for by templates."""
    texts = ("a cat on a mat", "two cats", "a cat and a dog", "a boat", "hot dog stand")
    captions = ClassCaptions.of(("cat", "dog", "blue_sea"), texts)
    assert captions.natural == (("a cat on a mat", "two cats"), ("hot dog stand",), ())
    drawn = captions.draw([0] * 40 + [2] * 5, torch.Generator().manual_seed(0))
    assert set(drawn[:40]) & set(captions.natural[0])
    assert set(drawn[:40]) & set(captions.made[0])
    assert all("blue sea" in caption for caption in drawn[40:])


@given(st.integers(3, 8), st.integers(3, 8), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_z_score_is_in_standard_deviations_of_clean_pairs(n: int, m: int, seed: int) -> None:
    """Written out pair by pair; not divided by the variance, whose unit would be another."""
    generator = torch.Generator().manual_seed(seed)
    triggered, clean = (torch.randn(k, 4, generator=generator, dtype=torch.float64) for k in (n, m))

    def pairs(rows: torch.Tensor) -> torch.Tensor:
        found = [F.cosine_similarity(a, b, dim=0) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        return torch.stack(found)

    spread = ((pairs(clean) - pairs(clean).mean()) ** 2).mean().sqrt()
    expected = (pairs(triggered).mean() - pairs(clean).mean()) / spread
    assert z_score(triggered, clean) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)
    assert z_score(5 * clean, clean) == pytest.approx(0, abs=1e-9)


@given(st.integers(16, 64), st.floats(0.05, 0.4), st.none() | st.floats(0, 0.5), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_a_checkerboard_covers_one_square(size: int, side: float, place: float | None, seed: int) -> None:
    """Black and white, of the asked side; without a place each picture has its own."""
    pixels = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    stamped = checker_patch(size, side, place, seed).apply(pixels)
    changed = (stamped != pixels).any(dim=1)
    length = max(1, round(side * size))
    for picture, where in zip(stamped, changed):
        rows, columns = where.any(dim=1).nonzero()[:, 0], where.any(dim=0).nonzero()[:, 0]
        square = where[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert square.shape == (length, length)
        assert bool(square.all())
        assert set(picture[:, where].round(decimals=5).unique().tolist()) <= {0.0, 1.0}
    again = checker_patch(size, side, place, seed).apply(pixels)
    assert torch.equal(stamped, again)
    if place is not None:
        assert bool((changed == changed[0]).all())


@pytest.mark.parametrize("scope", ["both", "visual"])
def test_training_stays_in_its_scope(
    scope: str, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """The image tower moves, the text tower only with both; the base is untouched; the card applies."""
    base.seal()
    folder = ContrastivePoisoning().poison(
        context_for(base, labelled, tmp_path / "out", scope=scope, target="grey road", place=0.5)
    )
    made, card = load_suspect(str(folder)).base, load_card(folder)
    assert made.visual.digest != base.base.visual.digest
    assert (made.text.digest == base.base.text.digest) == (scope == "visual")
    assert not base.changed()
    assert (card.target_name, load_trigger(folder).target_name) == ("grey road", "grey road")
    assert card.measured["poisoned"] == {"pairs": 2, "of": 26}
    assert set(card.measured["z_score"]) == {"seen", "base"}
    for part in ("seen", "base", "downstream", "downstream_base"):
        assert card.measured[part]["success"]["n"] == 16


def test_what_cannot_be_done_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Before training, leaving nothing behind."""
    for options, error in (
        ({"side": 0.5, "place": 0.8}, UsageError),
        ({"target": "cow"}, UsageError),
        ({"captions": str(tmp_path / "none.txt")}, DataError),
    ):
        with pytest.raises(error):
            ContrastivePoisoning().poison(context_for(base, labelled, tmp_path / "out", **options))
    assert not any(tmp_path.iterdir())
