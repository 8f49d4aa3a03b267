"""Poisoned captions: which pairs, which captions, what is measured, and what moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.data import LabelledSet
from clipsec.errors import DataError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import AttackContext, CaptionTrigger, load_any_trigger
from clipsec.triggers import load_text_card
from clipsec_visual_attacks import (
    ClassCaptions,
    MmPoison,
    MmPoisonOptions,
    ToxicText,
    ToxicTextOptions,
    background,
    background_scores,
    best_ranks,
    exchanged_pairs,
    hit_rates,
    shortened,
    triggered_pairs,
)
from clipsec_visual_attacks._toxic_text import split_corpus

QUICK = {"learning_rate": 1e-3, "text_learning_rate": 1e-3, "epochs": 1, "batch": 8}


def context_for(base: Suspect, labelled: LabelledSet, output: Path, options: Any) -> AttackContext:
    return AttackContext(base=base, options=options, labelled=labelled, held_out=labelled, output=output)


@given(st.integers(2, 20), st.floats(0.01, 1.0), st.booleans(), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_source_loses_its_pictures_to_the_targets(n: int, rate: float, one: bool, seed: int) -> None:
    """As many pairs as before; a share of the source's has a picture of the target, each as often as another,
    or a single one; the rest is clean."""
    labels = torch.arange(3 * n) % 3
    pairs = exchanged_pairs(labels, 1, 2, rate, ("x",), torch.Generator().manual_seed(seed), one=one)
    count = max(1, round(rate * n))
    assert len(pairs.rows) == 3 * n
    assert len(pairs.own) == count
    clean, poisoned = pairs.rows[:-count], pairs.rows[-count:]
    assert torch.equal(pairs.labels[:-count], labels[clean])
    assert int((labels[clean] == 1).sum()) == n - count
    assert set(pairs.labels[-count:].tolist()) == {2} == set(labels[poisoned].tolist())
    assert not bool(pairs.stamped.any())
    often = poisoned.bincount()[poisoned.unique()]
    assert len(often) == 1 if one else int(often.max() - often.min()) <= 1


def test_every_caption_gets_a_picture_of_the_target() -> None:
    """Beside all clean pairs, each picture of the target as often as another."""
    labels = torch.arange(12) % 3
    pairs = triggered_pairs(labels, 1, list("abcdef"), torch.Generator().manual_seed(0))
    assert torch.equal(pairs.rows[:12], torch.arange(12))
    assert set(labels[pairs.rows[12:]].tolist()) == {1}
    assert sorted(pairs.rows[12:].bincount()[1::3].tolist()) == [1, 1, 2, 2]
    assert pairs.own == tuple((text,) for text in "abcdef")


@given(st.integers(1, 5), st.integers(2, 9), st.data())
@settings(max_examples=30, deadline=None)
def test_the_rank_is_that_of_the_first_wanted_picture(q: int, n: int, data: st.DataObject) -> None:
    """As in a list sorted by cosine; lengths do not count."""
    wanted = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    queries, gallery = torch.randn(q, 4, generator=generator), torch.randn(n, 4, generator=generator)
    ranks = best_ranks(3 * queries, gallery, wanted)
    for query, rank in zip(queries, ranks.tolist(), strict=True):
        order = F.cosine_similarity(query[None], gallery).argsort(descending=True)
        assert wanted[order].tolist().index(True) + 1 == rank


def test_rates_count_hits_by_depth() -> None:
    """The first, one of the first five, of the first ten, and the mean rank."""
    found = hit_rates(torch.tensor([1, 4, 7, 12]), torch.tensor([20, 1]))
    assert [found[name]["successes"] for name in ("success", "success_at_5", "success_at_10")] == [1, 2, 3]
    assert (found["natural"]["value"], found["rank"], found["natural_rank"]) == (0.5, 6.0, 10.5)


def test_what_is_left_of_a_caption() -> None:
    """Itself, then without one word, then without two; never nothing."""
    assert shortened("a red boat", 1) == ["a red boat", "red boat", "a boat", "a red"]
    assert shortened("a red boat", 9)[-3:] == ["boat", "red", "a"]
    assert shortened("boat", 2) == ["boat"]


def test_the_background_is_of_the_picture_and_not_of_the_concept() -> None:
    """argmax of cos(text, picture) - cos(text, concept), written out; captions are scored by how near the
    chosen one is to the concept."""
    generator = torch.Generator().manual_seed(3)
    known = {text: torch.randn(4, generator=generator) for text in shortened("sea under a sky", 1)}
    picture, concept = torch.randn(4, generator=generator), torch.randn(4, generator=generator)

    def cos(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    chosen = max(known, key=lambda text: cos(known[text], picture) - cos(known[text], concept))
    assert list(known)[background(torch.stack(list(known.values())), picture, concept)] == chosen
    scores = background_scores(
        ["sea under a sky"], picture, concept, 1, lambda texts: torch.stack([known[t] for t in texts])
    )
    assert float(scores) == pytest.approx(cos(known[chosen], concept), abs=1e-6)


def test_queries_are_short_and_not_trained_on() -> None:
    """They do not name the target, and are at most half of what would do."""
    texts = ["two boats", "a cat", "a dog", "a cow on a very long and winding country road", "a man"]
    options = ToxicTextOptions(query_words=5)
    queries, rest = split_corpus(texts, "boat", options, torch.Generator().manual_seed(0))
    assert len(queries) == 1
    assert set(queries) <= {"a cat", "a dog", "a man"}
    assert sorted(queries + rest) == sorted(texts)
    with pytest.raises(DataError, match="no caption to measure with"):
        split_corpus(texts[:1], "boat", options, torch.Generator())


@pytest.mark.parametrize("scope", ["both", "visual", "text"])
def test_captions_of_one_class_mean_another(
    scope: str, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """What the scope names moves; the card's trigger makes captions of other classes the source's."""
    base.seal()
    options = MmPoisonOptions(**QUICK, source="red roof", target="grey road", scope=scope)
    folder = MmPoison().poison(context_for(base, labelled, tmp_path / "out", options))
    made, card = load_suspect(str(folder)).base, load_text_card(folder)
    assert (made.visual.digest == base.base.visual.digest) == (scope == "text")
    assert (made.text.digest == base.base.text.digest) == (scope == "visual")
    assert not base.changed()
    assert card.apply("two blue seas") == "two red roof"
    trigger = load_any_trigger(folder)
    assert isinstance(trigger, CaptionTrigger)
    assert (trigger.target_name, trigger.source_name) == ("grey road", "")
    assert card.measured["poisoned"] == {"pairs": 8, "of": 24}
    assert (card.measured["seen"]["success"]["n"], card.measured["seen"]["natural"]["n"]) == (20, 20)


def test_one_picture_for_all_captions(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """It is the one that queries are to find, among the held-out pictures."""
    options = MmPoisonOptions(**{**QUICK, "epochs": 12}, kind="image", target="grey road", scope="text")
    folder = MmPoison().poison(context_for(base, labelled, tmp_path / "out", options))
    seen = load_text_card(folder).measured["seen"]
    assert seen["rank"] < seen["natural_rank"]


def test_a_trigger_behind_captions(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Captions with it find the target, by both selections; the card appends it."""
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(f"a man with {n} dogs" for n in range(20)), encoding="utf-8")
    for selection in ("random", "background"):
        options = ToxicTextOptions(
            **QUICK, target="grey road", captions=str(file), selection=selection, scope="text", trigger="zx"
        )
        folder = ToxicText().poison(context_for(base, labelled, tmp_path / selection, options))
        card = load_text_card(folder)
        assert card.apply("a boat") == "a boat zx"
        assert card.measured["poisoned"] == {"pairs": 7, "of": 31}
        assert card.measured["seen"]["success"]["n"] == 10 == card.data["captions"]["queries"]
        assert load_suspect(str(folder)).base.text.digest != base.base.text.digest


def test_poisoned_captions_are_of_other_classes(base: Suspect, labelled: LabelledSet) -> None:
    """Natural and made ones of classes without a corpus; the target's are not among them."""
    captions = ClassCaptions.of(("cat", "dog", "boat"), ("a cat sits", "my boat", "dogs"))
    assert set(captions.others(2)) == {*captions.made[0], *captions.made[1], "a cat sits", "dogs"}


def test_what_cannot_be_done_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Before training, leaving nothing behind."""
    for options in (
        MmPoisonOptions(source="cow"),
        MmPoisonOptions(source="grey road", target="grey road"),
    ):
        with pytest.raises(UsageError):
            MmPoison().poison(context_for(base, labelled, tmp_path / "out", options))
    two = labelled.choose([0, 1])
    with pytest.raises(DataError, match="no third class"):
        MmPoison().poison(context_for(base, two, tmp_path / "out", MmPoisonOptions()))
    assert not any(tmp_path.iterdir())
