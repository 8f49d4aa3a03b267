"""The token scan: formulas as written plainly, a planted word is found, what was not planted is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipsec.errors import DetectionError, NotApplicableError
from clipsec.models import Suspect, decode_ids
from clipsec.protocols import Context
from clipsec.results import Outcome, Verdict
from clipsec_amdet.token_scan import Options, TokenScan, insert_ids, moves, pull
from clipsec_amdet.token_scan._calibration import Units, score_of, strongest
from clipsec_amdet.token_scan._plan import choose_tokens, make_captions, make_plan
from clipsec_amdet.token_scan._scan import Candidate, grow, make_pool
from clipsec_testkit import DetectorConformance

from .conftest import TRIGGER, make_context, new_module, suspect_of

QUICK = {"tokens": 60, "held_out": 8, "pool": 6, "beam": 3, "finalists": 2, "length": 2}


def context_of(folder: Path, suspect: Suspect, reference: Suspect | None, **values: Any) -> Context:
    return make_context(folder, Options(**{**QUICK, **values}), suspect, reference)


def detect(context: Context) -> Verdict:
    verdict = context.scheduler.run(TokenScan().detect(context))
    assert isinstance(verdict, Verdict)
    return verdict


def draw(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 5), st.integers(0, 2**31))
def test_inserting_is_splicing_lists(n: int, k: int, at: int, seed: int) -> None:
    """Each row is the text before, the sequence, the text behind, cut to the row's length."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(100, (2, 9), generator=generator)
    sequences = torch.randint(100, (n, k), generator=generator)
    places = torch.tensor([at, max(0, at - 1)])
    found = insert_ids(rows, sequences, places)
    for i, sequence in enumerate(sequences.tolist()):
        for j, row in enumerate(rows.tolist()):
            p = int(places[j])
            assert found[i, j].tolist() == (row[:p] + sequence + row[p:])[:9]


@given(st.integers(0, 2**31))
def test_pull_is_what_one_tower_does_beyond_the_other(seed: int) -> None:
    """All of the move where the other tower does nothing or the contrary, none where it goes the same way,
    as far or not."""
    found, plain = draw(seed, 5, 7, 6), draw(seed + 1, 7, 6)
    move = moves(found, plain)
    assert torch.allclose(move[2], sum(found[2, j] - plain[j] for j in range(7)) / 7)
    assert torch.allclose(pull(move, torch.zeros_like(move)), move.norm(dim=-1))
    for times in (0.5, 1.0, 2.0):
        assert torch.allclose(pull(move, times * move), torch.zeros(5).double(), atol=1e-7)
    assert torch.allclose(pull(move, -move), 2 * move.norm(dim=-1))


def test_sequences_grow_at_both_ends() -> None:
    """Every token of the pool before and behind every sequence, each result once."""
    grown = grow(torch.tensor([[1, 2]]), torch.tensor([3, 4]))
    assert sorted(grown.tolist()) == [[1, 2, 3], [1, 2, 4], [3, 1, 2], [4, 1, 2]]
    assert len(grow(torch.tensor([[1], [2]]), torch.tensor([1, 2]))) == 4


def test_the_pool_takes_the_strongest_and_the_most_trained() -> None:
    """Half by what they do alone, the rest by how far their embeddings moved."""
    tokens, scores = torch.arange(10, 16), torch.tensor([0.0, 5, 0, 4, 0, 0])
    drift = torch.tensor([9.0, 8, 0, 0, 0, 7])
    assert make_pool(tokens, scores, drift, 4).tolist() == [11, 13, 10, 15]


@pytest.fixture(scope="module")
def found(planted: Suspect, clean: Suspect, tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdict, Path]:
    folder = tmp_path_factory.mktemp("scan")
    return detect(context_of(folder, planted, clean, threshold=0.01)), folder


def test_a_planted_word_is_found(found: tuple[Verdict, Path], planted: Suspect) -> None:
    """The finding names the trigger, and its file holds token ids that decode to it."""
    verdict, folder = found
    assert verdict.outcome is Outcome.FINDING
    assert TRIGGER[:2] in verdict.evidence[0].name
    assert verdict.measures["captured"] > verdict.measures["captured_reference"]
    assert verdict.threshold_source == "set by the user"
    first = json.loads((folder / "sequences.json").read_text(encoding="utf-8"))[0]
    assert decode_ids(planted.base, first["ids"]) == first["text"] == verdict.evidence[0].name


def test_what_was_not_planted_scores_less(
    found: tuple[Verdict, Path], benign: Suspect, clean: Suspect, tmp_path: Path
) -> None:
    """The same training with nothing planted stays far below, and the verdict says what the scan cannot
    see."""
    verdict = detect(context_of(tmp_path, benign, clean))
    assert verdict.outcome is Outcome.CLEAN
    assert verdict.score is not None
    assert found[0].score is not None
    assert verdict.score < found[0].score
    assert any("can pass it" in note for note in verdict.notes)
    assert not verdict.artifacts


def test_the_null_does_without_the_trigger(found: tuple[Verdict, Path]) -> None:
    """What is said to work in the reference alone holds no token of what was found: beside the trigger every
    word seems to have lost its meaning."""
    verdict, _ = found
    note = next(note for note in verdict.notes if note.startswith("The null"))
    assert TRIGGER[:2] not in note


@given(st.floats(-2, 2), st.integers(2, 9))
def test_a_pull_is_scored_in_the_unit_of_its_length(pull: float, tokens: int) -> None:
    """One token in its own unit, two and more in theirs."""
    units = Units(single=0.2, sequence=0.5, source="")
    assert score_of(pull, 1, units) == pull / 0.2
    assert score_of(pull, tokens, units) == pull / 0.5


def test_a_single_token_can_be_stronger_than_a_sequence_that_pulls_more() -> None:
    """Strongest is who exceeds the unit of his length most."""
    single, pair = (
        Candidate(ids, "start", pull, 0.0, 0.0, torch.zeros(2)) for ids, pull in (((7,), 0.3), ((7, 8), 0.4))
    )
    found, score = strongest([pair, single], Units(single=0.2, sequence=0.5, source=""))
    assert found is single
    assert score == pytest.approx(1.5)


def test_equal_towers_are_answered_at_once(clean: Suspect, tmp_path: Path) -> None:
    """Bit for bit the reference: clean, and not one tower call."""
    context = context_of(tmp_path, suspect_of(copy.deepcopy(new_module("clip"))), clean)
    assert detect(context).outcome is Outcome.CLEAN
    assert context.scheduler.counts().forward_rows == 0


def test_without_a_reference_it_says_what_is_lost(planted: Suspect, tmp_path: Path) -> None:
    """Skipped, never clean."""
    with pytest.raises(NotApplicableError, match="every token takes captions somewhere"):
        detect(context_of(tmp_path, planted, None))


def test_a_tower_that_gives_no_numbers_is_not_clean(clean: Suspect, tmp_path: Path) -> None:
    """A token whose features are not finite ends the scan with an error."""
    broken = copy.deepcopy(new_module("clip"))
    table = next(m for name, m in broken.named_modules() if name.endswith("token_embedding"))
    table.weight[5000] = float("inf")
    with pytest.raises(DetectionError, match="not finite"):
        detect(context_of(tmp_path, suspect_of(broken), clean))


def test_tokens_that_nobody_can_tell_apart_are_scanned_once(clean: Suspect) -> None:
    """Of equal embeddings one stays; start and end token are left out; with no drift all are scanned."""
    assert clean.base.text is not None
    module = copy.deepcopy(new_module("clip"))
    table = next(m for name, m in module.named_modules() if name.endswith("token_embedding"))
    table.weight[1000:2000] = table.weight[1000]
    base = suspect_of(module).base
    padded = make_captions(base, 2, torch.Generator().manual_seed(0)).ids
    tokens, drift = choose_tokens(base, base, padded, 60)
    assert len(tokens) == 49408 - 999 - 2
    assert not drift.any()
    few, _ = choose_tokens(base, clean.base, padded, 60)
    assert len(few) == 60
    assert set(few.tolist()) <= set(range(1001, 2000))


def test_a_bidirectional_tower_is_scanned_whole(tmp_path: Path) -> None:
    """SigLIP: rows of the full context, a sequence at the start has nothing before it."""
    module = new_module("siglip")
    other = copy.deepcopy(module)
    other.text_model.encoder.layers[0].mlp.fc1.weight.mul_(1.05)
    suspect, reference = suspect_of(other, "siglip"), suspect_of(module, "siglip")
    plan = make_plan(context_of(tmp_path, suspect, reference, tokens=60, length=1))
    assert plan.scanned.ids.shape[1] == 20
    assert plan.scanned.first == 0
    assert int(plan.scanned.ends.max()) < 20


class TestTokenScan(DetectorConformance):
    """The battery that every detector has to pass."""

    make = TokenScan
