"""Which run a repair or an exposure may start from."""

from __future__ import annotations

from typing import Any

import attrs
import open_clip
import pytest
import torch

from clipsec.errors import UsageError
from clipsec.models import Suspect, clip_from_open_clip
from clipsec.results import GateResult, Outcome, RunResult, Verdict
from clipsec.runner import choose_finding

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def suspect(*class_names: str, seed: int = 0) -> Suspect:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = open_clip.CLIP(**CONFIG)
    base = clip_from_open_clip(module, name="tiny", config=CONFIG)
    return Suspect(name="tiny", kind="clip", base=base, class_names=class_names)


def run_of(audited: Suspect) -> RunResult:
    verdict = Verdict(Outcome.FINDING, "found")
    return RunResult(audited.card, {"dist/check": verdict}, GateResult(True, {}), {}, "2026", 1.0)


def test_a_run_without_class_names_is_of_the_model_whatever_its_classes() -> None:
    """`clipsec run TOWER`, then `clipsec expose TOWER --labelled PICTURES`, which brings the names."""
    assert choose_finding(run_of(suspect()), suspect("cat", "dog")).outcome is Outcome.FINDING


def test_a_run_with_other_class_names_says_so() -> None:
    """Two digests of one name and one file would tell nobody what is wrong."""
    with pytest.raises(UsageError, match="with other class names") as caught:
        choose_finding(run_of(suspect("cat", "dog")), suspect("dog", "cat"))
    assert "--classes" in caught.value.remedy


def test_a_run_of_another_model_is_refused() -> None:
    """Other weights, with or without class names, and learned prompts on the same base."""
    for audited in (suspect(seed=1), suspect("cat", "dog", seed=1)):
        with pytest.raises(UsageError, match="not about tiny"):
            choose_finding(run_of(audited), suspect("cat", "dog"))
    tuned = attrs.evolve(
        run_of(suspect()).suspect, digest="ab" * 32, class_names=("cat", "dog"), kind="prompt-tuned"
    )
    with pytest.raises(UsageError, match="not about tiny"):
        choose_finding(attrs.evolve(run_of(suspect()), suspect=tuned), suspect())
