"""Probes: what they are, what their answers count, and what is decided from them."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.data import ImagePool
from clipsec.results import Outcome
from clipsec.runner import audit
from clipsec_clip_inspector._decision import SIGNIFICANCE
from clipsec_clip_inspector._plus_decision import PROBE_THRESHOLD, class_score, decide_plus, fewest_pictures
from clipsec_clip_inspector._probes import FAMILIES, probes
from clipsec_clip_inspector._probing import (
    FINALISTS,
    WORTH,
    Answers,
    ProbeResult,
    decide_class,
    excess_by_class,
    finalists,
    joined,
    unmoved,
)
from clipsec_clip_inspector._score import BaseResult, ClassResult

CLASSES = 4
PROMPTS = 2
PREDICTIONS = st.lists(st.tuples(*[st.integers(0, CLASSES - 1)] * (2 + 2 * PROMPTS)), min_size=1, max_size=40)


@pytest.mark.parametrize("size", [32, 128, 224])
def test_probes_keep_pixels_in_range_and_change_every_picture(size: int) -> None:
    """For any frame, each name once, and the same pixels again when made again."""
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    library, again = probes(size), probes(size)
    assert len({probe.name for probe in library}) == len(library)
    assert {probe.family for probe in library} == set(FAMILIES)
    for probe, same in zip(library, again, strict=True):
        stamped = probe.stamp.apply(pixels)
        assert stamped.shape == pixels.shape
        assert torch.equal(stamped, stamped.clamp(0, 1))
        assert bool((stamped != pixels).flatten(1).any(dim=1).all())
        assert torch.equal(stamped, same.stamp.apply(pixels))


def test_families_are_chosen_by_name() -> None:
    assert {probe.family for probe in probes(32, ["warp", "patch"])} == {"warp", "patch"}


@settings(max_examples=60, deadline=None)
@given(PREDICTIONS)
def test_excess_counts_free_pictures_only(rows: list[tuple[int, ...]]) -> None:
    """Won on the suspect minus won on the base under its likeliest prompt, over pictures that neither gives
    to the class anyway."""
    stamped, clean, *others = torch.tensor(rows).T
    answers = Answers(stamped, torch.stack(others[:PROMPTS]))
    before = Answers(clean, torch.stack(others[PROMPTS:]))
    excess = excess_by_class(answers, before, range(CLASSES))
    for index in range(CLASSES):
        free = [row for row in rows if row[1] != index and row[2 + PROMPTS] != index]
        base = max(sum(row[2 + prompt] == index for row in free) for prompt in range(PROMPTS))
        won = sum(row[0] == index for row in free) - base
        assert float(excess[index]) == pytest.approx(won / max(len(free), 1))
        decided = decide_class(index, ("a", "b"), 0.0, answers, before)
        assert (decided.n, decided.hits - decided.base_hits) == (len(free), won)


def test_a_model_that_answers_as_the_base_under_some_prompt_has_no_excess() -> None:
    """Whatever the stamps do to both."""
    generator = torch.Generator().manual_seed(0)
    stamped, other, clean = (torch.randint(CLASSES, (3, 50), generator=generator) for _ in range(3))
    answers = Answers(stamped, torch.stack([other, stamped], dim=1))
    excess = excess_by_class(answers, Answers(clean[0], clean[:1]), range(CLASSES))
    assert excess.shape == (3, CLASSES)
    assert float(excess.max()) <= 0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_the_highest_and_whoever_stands_out_are_decided(excess: list[float]) -> None:
    chosen = finalists(excess)
    assert len(chosen) >= min(FINALISTS, len(excess))
    assert {place for place, value in enumerate(excess) if value > WORTH} <= set(chosen)
    assert max(range(len(excess)), key=lambda place: excess[place]) in chosen


@given(st.integers(2, 30), st.integers(0, 100))
def test_answers_on_parts_of_the_pictures_come_together(n: int, seed: int) -> None:
    """Two parts are the whole; one part with nothing moved elsewhere has no larger count of any class."""
    generator = torch.Generator().manual_seed(seed)
    whole = Answers(
        torch.randint(CLASSES, (n,), generator=generator), torch.randint(CLASSES, (3, n), generator=generator)
    )
    clean = Answers(
        torch.randint(CLASSES, (n,), generator=generator), torch.randint(CLASSES, (1, n), generator=generator)
    )
    rows = torch.randperm(n, generator=generator)
    first, rest = rows[: n // 2], rows[n // 2 :]
    both = joined(whole[first], first, whole[rest], rest)
    assert torch.equal(both.suspect, whole.suspect)
    assert torch.equal(both.base, whole.base)
    part = unmoved(clean, whole[first], first)
    assert torch.equal(part.suspect[first], whole.suspect[first])
    assert torch.equal(part.base[:, first], whole.base[:, first])
    assert torch.equal(part.suspect[rest], clean.suspect[rest])
    free = (clean.suspect != 0) & (clean.base[0] != 0)
    assert not ((part.suspect == 0) & free)[rest].any()


def probe_result(hits: int, base_hits: int, *, n: int = 200, p_value: float = 0.0) -> ProbeResult:
    return ProbeResult(0, ("a", "b"), 0.9, n, hits, base_hits, p_value)


def searched(excess: float, *, n: int = 200, given_up_after: int | None = None) -> ClassResult:
    base = BaseResult(n, int(excess * n), 0, 0, 0.0, 0.0, 0.0)
    return ClassResult(0, 0.0, int(excess * n), n, base, given_up_after)


@pytest.mark.parametrize(
    ("probe", "search", "outcome"),
    [
        (probe_result(100, 4), searched(0.0), Outcome.FINDING),
        (probe_result(0, 0), searched(0.3), Outcome.FINDING),
        (probe_result(40, 0), searched(0.1), Outcome.CLEAN),
        (probe_result(100, 4, p_value=0.1), searched(0.0), Outcome.INCONCLUSIVE),
        (probe_result(10, 0, n=40), searched(0.0, n=40), Outcome.INCONCLUSIVE),
        (probe_result(0, 0), searched(0.9, given_up_after=2), Outcome.CLEAN),
        (ProbeResult(0, ("a", "b"), 0.9), searched(0.0), Outcome.CLEAN),
    ],
)
def test_outcomes(probe: ProbeResult, search: ClassResult, outcome: Outcome) -> None:
    """Either kind of trigger is enough; too few pictures, an early end or a screening alone are not."""
    other, quiet = probe_result(1, 1, n=max(probe.n, 100)), searched(0.0, n=search.n)
    assert decide_plus([probe, other], [search, quiet]).outcome is outcome


@given(st.floats(0.02, 1.0), st.integers(1, 400))
def test_the_fewest_pictures_are_just_enough(excess: float, measurements: int) -> None:
    """An excess of the threshold is significant on that many pictures, and not on one less."""
    n = fewest_pictures(excess, measurements)
    assert measurements * 0.5 ** (excess * n) <= SIGNIFICANCE * (1 + 1e-9)
    assert n == 1 or measurements * 0.5 ** (excess * (n - 1)) > SIGNIFICANCE


def test_one_is_the_threshold_of_either_kind() -> None:
    score = class_score(probe_result(50, 0), searched(0.15))
    assert score.probe == pytest.approx(0.25 / PROBE_THRESHOLD)
    assert score.search == pytest.approx(1.0)


def test_what_was_stamped_once_serves_the_next_audit(toy_clips, toy_pool: ImagePool, tmp_path: Path) -> None:
    """Another audit on the base stamps nothing; one that is asked for again computes nothing. The planted
    class answers most."""
    verdicts = []
    for threshold, runs in ((1.0, "a"), (0.5, "b"), (0.5, "b")):
        result = audit(
            toy_clips["prompt"].fresh(),
            pool=toy_pool,
            detectors=["clip-inspector-plus"],
            options={"clip-inspector-plus": {"search": False, "threshold": threshold}},
            labelled=toy_clips.labelled,
            runs=tmp_path / runs,
            shared=tmp_path / "shared",
        )
        (verdict,) = result.verdicts.values()
        assert verdict.error is None
        verdicts.append(attrs.evolve(verdict, provenance=None))  # it says when
    first, second, again = verdicts
    assert again == second
    best = max(first.evidence, key=lambda each: each.measures["score"])
    assert best.index == toy_clips["prompt"].trigger.target_index
    assert second.outcome is Outcome.FINDING
    # A finding also leaves a trigger of one class that it does not flag, for the repair's control.
    left = [each for each in second.evidence if any(a.kind == "trigger" for a in each.artifacts)]
    assert [each.flagged for each in left].count(False) == 1
    # The rest are rows of the two heads.
    assert first.cost.forward_rows - second.cost.forward_rows >= len(probes(32)) * len(toy_pool)
