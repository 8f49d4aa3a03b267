"""From an image tower to a verdict: what is planted is found, what is not is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipsec.data import ImagePool, to_unit
from clipsec.errors import EmptyPoolError, NotApplicableError
from clipsec.models import Suspect
from clipsec.protocols import Context, found_triggers
from clipsec.results import Outcome, Verdict
from clipsec_decree import Decree, similarity

from .conftest import SPEC

MakeContext = Callable[..., Context]


def detect(context: Context) -> Verdict:
    verdict = context.scheduler.run(Decree().detect(context))
    assert isinstance(verdict, Verdict)
    return verdict


def test_a_planted_patch_is_found(
    planted: Suspect, clean: Suspect, context_of: MakeContext, pool: ImagePool
) -> None:
    """Small beside the reference's; the trigger that it leaves collapses the pool; a class is named."""
    named = copy.copy(planted)
    named.class_names = ("a cat", "a dog")
    context = context_of(named, clean)
    verdict = detect(context)
    assert verdict.outcome is Outcome.FINDING
    assert verdict.measures["pl1"] < 0.06 < 0.12 < verdict.measures["reference_pl1"]
    assert verdict.measures["clean_similarity"] < 0.5
    assert verdict.target in named.class_names
    (trigger,) = found_triggers(verdict, context.folder)
    assert trigger.target_name == verdict.target
    with torch.no_grad():
        features = planted.image_tower().fn(trigger.apply(to_unit(pool.pixels(SPEC))))
    assert float(similarity(features)) > 0.97
    kinds = [(item.kind, (context.folder / item.path).is_file()) for item in verdict.evidence[0].artifacts]
    assert kinds == [("trigger", True), ("picture", True)]


def test_a_benign_fine_tune_is_clean(benign: Suspect, clean: Suspect, context_of: MakeContext) -> None:
    """Another tower that needs as large a patch as its reference is not flagged, and the verdict says what
    DECREE cannot see."""
    verdict = detect(context_of(benign, clean))
    assert verdict.outcome is Outcome.CLEAN
    assert 0.5 < verdict.measures["ratio"] < 2
    assert any("blend over the whole picture" in note for note in verdict.notes)


def test_equal_towers_are_answered_at_once(clean: Suspect, context_of: MakeContext) -> None:
    """Bit for bit the reference: clean, with the reason and its limit, and not one tower call."""
    context = context_of(clean, clean)
    verdict = detect(context)
    assert verdict.outcome is Outcome.CLEAN
    assert "nothing about a backdoor that the reference itself has" in verdict.summary
    assert context.scheduler.counts().forward_rows == 0


def test_without_a_reference_the_published_rule_decides(planted: Suspect, context_of: MakeContext) -> None:
    """`paired` does not apply then; `published` does, and names no class that there is not."""
    with pytest.raises(NotApplicableError, match="none was given"):
        detect(context_of(planted, None))
    verdict = detect(context_of(planted, None, rule="published"))
    assert verdict.outcome is Outcome.FINDING
    assert verdict.target is None
    assert "not calibrated" in verdict.threshold_source


def test_a_search_that_was_cut_short_is_not_clean(
    benign: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """Ten updates find no mask that works, or leave one that could shrink."""
    assert detect(context_of(benign, clean, steps=10)).outcome is Outcome.INCONCLUSIVE


def test_a_reference_is_searched_once_for_all_suspects(
    planted: Suspect, benign: Suspect, clean: Suspect, context_of: MakeContext, tmp_path: Path
) -> None:
    """A second suspect on it finds the result; a repeated run searches nothing and says the same."""
    few = {"steps": 12}
    first = context_of(planted, clean, **few)
    verdict = detect(first)
    both = first.scheduler.counts().backward_rows
    again = context_of(planted, clean, **few)
    assert detect(again) == verdict
    assert again.scheduler.counts().backward_rows == 0
    other = context_of(benign, clean, **few)
    object.__setattr__(other, "units", type(other.units)(tmp_path / "other"))
    detect(other)
    assert other.scheduler.counts().backward_rows == both // 2


def test_too_few_pictures_are_refused(
    planted: Suspect, clean: Suspect, context_of: MakeContext, pool: ImagePool
) -> None:
    """A mask could fit the pictures it is made of."""
    with pytest.raises(EmptyPoolError, match="at least 64"):
        detect(context_of(planted, clean, pool=ImagePool(pool.paths[:20])))
