"""From a text tower to a verdict: what is planted is found, what is not is not."""

from __future__ import annotations

import base64
import copy
import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from clipsec.data import ImagePool, coco_captions, to_unit
from clipsec.errors import NotApplicableError
from clipsec.models import PreparationWarning, Suspect, clip_from_transformers
from clipsec.protocols import Context
from clipsec.reports import render_html
from clipsec.results import GateResult, Outcome, RunResult, Verdict
from clipsec_amdet import Amdet, Options
from clipsec_amdet._attention_picture import vector_share
from clipsec_amdet._decode import Decoded, decode, with_pictures
from clipsec_amdet._plan import make_batches, make_plan
from clipsec_amdet._search import Found, lonely_batch, run_start

from .conftest import SIZES, VISION, new_module, suspect_of

MakeContext = Callable[..., Context]
PAIRED_GAP = 0.3
"""Between the two towers of the conftest, chosen by looking at them: a check of the code, not a rate."""


def detect(context: Context) -> Verdict:
    verdict = context.scheduler.run(Amdet().detect(context))
    assert isinstance(verdict, Verdict)
    return verdict


def test_a_planted_target_is_found(planted: Suspect, clean: Suspect, context_of: MakeContext) -> None:
    """All four tests pass, the files of the target are there, captions are named."""
    context = context_of(planted, clean)
    verdict = detect(context)
    assert verdict.outcome is Outcome.FINDING
    assert verdict.score is not None
    assert verdict.score > 0
    assert "set by the user" in verdict.threshold_source
    assert verdict.target in coco_captions().texts
    assert {item.path for item in verdict.artifacts} == {"target.safetensors", "nearest.csv", "attention.png"}
    with (context.folder / "nearest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["kind"] for row in rows] == ["caption"] * 5
    assert rows[0]["nearest"] == verdict.target


def test_a_benign_fine_tune_is_clean(benign: Suspect, clean: Suspect, context_of: MakeContext) -> None:
    """The same training with nothing planted is not flagged, and the verdict says what AMDET cannot see."""
    verdict = detect(context_of(benign, clean))
    assert verdict.outcome is Outcome.CLEAN
    assert verdict.score is not None
    assert verdict.score < 0
    assert any("Attribute backdoors" in note for note in verdict.notes)
    assert "not calibrated here" in verdict.threshold_source


def test_paired_finds_what_is_planted_and_not_what_was_distilled(
    planted: Suspect, benign: Suspect, clean: Suspect, context_of: MakeContext, tmp_path: Path
) -> None:
    """At one threshold the backdoored tower is a finding and the one trained alike with nothing planted is
    clean, each by some distance."""
    short = {"paired": True, "starts": 1, "gap": PAIRED_GAP}
    found = detect(context_of(planted, clean, folder=tmp_path / "planted", **short))
    passed = detect(context_of(benign, clean, folder=tmp_path / "benign", **short))
    assert (found.outcome, passed.outcome) == (Outcome.FINDING, Outcome.CLEAN)
    assert found.score is not None
    assert passed.score is not None
    assert found.score > PAIRED_GAP + 0.05
    assert passed.score < PAIRED_GAP - 0.05


def test_a_finding_shows_where_tokens_look(planted: Suspect, clean: Suspect, context_of: MakeContext) -> None:
    """The picture of attention is in the page of the run, with the share of both towers in words."""
    context = context_of(planted, clean, paired=True, positions="end", steps=5, gap=-1.0, starts=1)
    verdict = detect(context)
    picture = next(item for item in verdict.artifacts if item.path == "attention.png")
    assert picture.kind == "picture"
    assert re.search(r"\d+% goes to it in the suspect and \d+% in the reference", picture.description)
    result = RunResult(
        suspect=planted.card,
        verdicts={"clipsec-amdet/amdet": verdict},
        gate=GateResult(True, {}),
        environment={},
        started="2026-11-28T09:30:00+00:00",
        seconds=1.0,
    )
    content = base64.b64encode((context.folder / picture.path).read_bytes()).decode()
    assert content in render_html(result, context.folder)


def test_the_share_of_the_vector_is_that_of_the_tokens_behind_it() -> None:
    """Tokens before it cannot look at it and do not count."""
    attention = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.8, 0.1, 0], [0.2, 0.6, 0.1, 0.1]])
    assert vector_share(attention, at=1, k=1) == pytest.approx(0.7)


@pytest.mark.parametrize(("gap", "outcome"), [(-1.0, Outcome.FINDING), (1.0, Outcome.CLEAN)])
def test_with_paired_the_difference_decides_alone(
    gap: float, outcome: Outcome, planted: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """The score is the difference, the threshold the user's, no landscape is drawn, and no vector is longer
    than the limit."""
    context = context_of(planted, clean, paired=True, positions="end", steps=5, gap=gap, starts=1)
    verdict = detect(context)
    measures = verdict.evidence[0].measures
    assert verdict.outcome is outcome
    assert (verdict.score, verdict.threshold) == (measures["gap"], gap)
    assert verdict.threshold_source == f"for clip towers, gap = {gap:g} set by the user"
    assert "convex_share" not in measures
    assert measures["vector_norm"] <= make_plan(context).longest * 1.0001


def test_the_published_threshold_stands_unless_the_user_sets_it(
    planted: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """Without the option the paper's 0 decides, and misses this small tower."""
    verdict = detect(context_of(planted, clean, different=None, starts=1))
    assert verdict.outcome is Outcome.CLEAN
    assert "user" not in verdict.threshold_source


def test_equal_towers_are_answered_at_once(clean: Suspect, context_of: MakeContext) -> None:
    """Bit for bit the reference: clean, with the reason and its limit, and not one tower call."""
    again = suspect_of(copy.deepcopy(new_module("clip")))
    context = context_of(again, clean)
    verdict = detect(context)
    assert verdict.outcome is Outcome.CLEAN
    assert "nothing about a backdoor that the reference itself has" in verdict.summary
    assert context.scheduler.counts().forward_rows == 0


def test_without_a_reference_it_says_what_is_lost(planted: Suspect, context_of: MakeContext) -> None:
    """Skipped, never clean."""
    with pytest.raises(NotApplicableError, match="cannot tell a planted target from the natural"):
        detect(context_of(planted, None))


def test_a_reference_of_another_architecture_does_not_apply(
    planted: Suspect, context_of: MakeContext
) -> None:
    """A reference with another context is refused with both shapes."""
    other = suspect_of(new_module("long-clip"), "long-clip")
    with pytest.raises(NotApplicableError, match=r"long-clip of 248 tokens.* clip of 24 tokens"):
        detect(context_of(planted, other))


@pytest.mark.parametrize("family", ["long-clip", "siglip"])
def test_the_other_families_run_through_the_same_code(family: str, context_of: MakeContext) -> None:
    """A tower with random noise on its weights gets a verdict, under its own family's thresholds."""
    module = new_module(family)
    noisy = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(3)
    for weight in noisy.parameters():
        weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    few = {"prompts": 20, "steps": 3, "starts": 1, "batch_size": 4, "different": None}
    context = context_of(suspect_of(noisy, family), suspect_of(module, family), **few)
    verdict = detect(context)
    assert verdict.outcome is Outcome.CLEAN
    assert verdict.threshold_source.startswith(f"for {family} towers")
    assert make_plan(context).prompts.at == (0 if family == "siglip" else 1)


def test_a_bidirectional_tower_is_not_cut(context_of: MakeContext) -> None:
    """`positions=text` is refused where padding is part of the text."""
    module = new_module("siglip")
    other = copy.deepcopy(module)
    next(other.text_model.parameters()).mul_(1.1)
    context = context_of(suspect_of(other, "siglip"), suspect_of(module, "siglip"), positions="text")
    with pytest.raises(NotApplicableError, match="bidirectional"):
        detect(context)


@pytest.mark.parametrize("positions", ["text", "end"])
def test_other_positions_cut_the_prompts(
    positions: str, planted: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """Rows are no longer than the longest prompt and its vector, and a start still passes the first test."""
    context = context_of(planted, clean, positions=positions, starts=1)
    plan = make_plan(context)
    assert plan.prompts.ids.shape[1] == int(plan.prompts.ends.max()) + 2 < 24
    found: Found = context.scheduler.run(run_start(context, plan, 0, lambda updates: None))
    assert found.shares.same == 1.0


def test_a_stored_start_is_not_searched_again(
    planted: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """A run that is repeated reads its starts and gives the same verdict."""
    first = detect(context_of(planted, clean, starts=1, steps=20))
    context = context_of(planted, clean, starts=1, steps=20)
    assert detect(context) == first
    assert context.scheduler.counts().backward_rows == 0


def test_starts_do_not_depend_on_each_other(
    planted: Suspect, clean: Suspect, context_of: MakeContext, tmp_path: Path
) -> None:
    """A start stacked with another finds what it finds in their batch alone."""
    short = {"steps": 12, "batch_size": 10}
    both = detect(context_of(planted, clean, starts=2, folder=tmp_path / "2", **short))
    three = detect(context_of(planted, clean, starts=3, folder=tmp_path / "3", **short))
    assert both.evidence == three.evidence[:2]


def test_a_tower_that_gives_no_numbers_is_not_clean(clean: Suspect, context_of: MakeContext) -> None:
    """NaN weights are never searched; the sanity gate says the rest."""
    broken = copy.deepcopy(new_module("clip"))
    name = next(n for n, _ in broken.named_parameters() if n.endswith("layers.1.mlp.fc2.bias"))
    dict(broken.named_parameters())[name].fill_(float("nan"))
    context = context_of(suspect_of(broken), clean)
    with (
        pytest.warns(PreparationWarning, match="disagrees"),
        pytest.raises(NotApplicableError, match="cannot be run from its embeddings"),
    ):
        detect(context)


def test_a_captions_own_feature_decodes_to_it(
    planted: Suspect, clean: Suspect, context_of: MakeContext
) -> None:
    """What the feature of one of the captions is nearest to is that caption."""
    context = context_of(planted, clean)
    plan = make_plan(context)
    index = torch.tensor([7])
    hidden = planted.embedding_tower().fn(plan.prompts.rows(index))
    decoded: Decoded = context.scheduler.run(decode(context, plan, hidden[0, plan.prompts.ends[7]]))
    assert decoded.captions[0][0] == plan.captions[7]
    assert decoded.captions[0][1] == pytest.approx(1, abs=1e-3)
    assert not decoded.pictures


def test_with_an_image_tower_pictures_are_named_too(context_of: MakeContext, tmp_path: Path) -> None:
    """The picture whose own feature is asked for comes first, on a sheet and by name."""
    module = clip_module()
    suspect = Suspect(name="tiny", kind="clip", base=clip_from_transformers(module, name="tiny"))
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    pool = ImagePool.from_folder(folder)
    context = context_of(suspect, suspect, pool=pool)
    visual = suspect.base.visual
    assert visual is not None
    feature = suspect.image_tower().fn(to_unit(pool.pixels(visual.spec)[4:5]))[0]
    found = context.scheduler.run(with_pictures(context, Decoded((("a caption", 1.0),)), feature))
    assert found.pictures[0][0] == "4.png"
    assert found.sheet.startswith(b"\x89PNG")
    assert b"picture,4.png" in found.table()


def clip_module() -> Any:
    """A tiny CLIP with both towers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {**SIZES, "vocab_size": 49408, "max_position_embeddings": 24}
        config = CLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=16)
        return CLIPModel(config).eval().requires_grad_(False)


def test_batches_are_shuffled_passes() -> None:
    """Every prompt once before any twice, as many batches as updates, none too small."""
    options = Options(steps=7, batch_size=4, prompts=20)
    batches = make_batches(16, options, torch.Generator().manual_seed(0))
    assert len(batches) == 7
    assert sorted(torch.cat(batches[:4]).tolist()) == list(range(16))
    assert {len(batch) for batch in batches} == {4}


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (10, 16), (16, 16), (17, None), (30, None)])
def test_few_rows_are_not_padded_to_a_full_batch(rows: int, size: int | None) -> None:
    """Up to sixteen rows get the next power of two."""
    assert lonely_batch(rows) == size


def test_the_defaults_are_the_published_numbers() -> None:
    """What differs on purpose says so in its docstring."""
    options: Any = attrs.asdict(Options())
    assert options["steps"] == 640
    assert (options["batch_size"], options["learning_rate"], options["weight"]) == (10, 0.08, 0.1)
    assert (options["prompts"], options["points"], options["reach"], options["vectors"]) == (4000, 50, 10, 1)
