"""The search as scheduler problems, against plain loops, and the detectors' units, notes and refusals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from clipsec.data import ImagePool, to_unit
from clipsec.errors import EmptyPoolError, NotApplicableError, UsageError
from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.results import Outcome
from clipsec.scheduler import Gather, Scheduler, Tower
from clipsec.store import UnitStore
from clipsec_baselines.detectors import (
    NeuralCleanse,
    NeuralCleanseOptions,
    PixelBackdoor,
    PixelBackdoorOptions,
)
from clipsec_baselines.detectors._decision import ClassSize, decide
from clipsec_baselines.detectors._detectors import make_rules
from clipsec_baselines.detectors._mask import MaskTrigger, mask_size
from clipsec_baselines.detectors._pixels import PixelTrigger, as_delta, delta_size
from clipsec_baselines.detectors._plan import make_rounds
from clipsec_baselines.detectors._schedule import CostRules, Rules
from clipsec_baselines.detectors._search import Found, search

SIZE, CLASSES = 8, 4
NEVER = CostRules(initial=0.02, from_zero=False, patience=10**6, multiplier=2.0)


def towers() -> tuple[Tower, Tower]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3 * SIZE * SIZE, generator=generator) / 10
    head = torch.randn(CLASSES, 6, generator=generator)
    image = Tower("image", lambda rows: torch.tanh(rows.flatten(1) @ weight.T), "image")
    return image, Tower("head", lambda rows: nn.functional.normalize(rows, dim=1) @ head.T * 16, "head")


def pixels(n: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).byte()


def start(kind: type) -> Any:
    return kind.random((3, SIZE, SIZE), torch.Generator().manual_seed(2))


def found(kind: type, rules: Rules, rounds: list[Any], target: int = 1) -> Found:
    image, head = towers()
    problem = search(
        image, head, pixels(), target, trigger=start(kind), rules=rules, rounds=rounds, learning_rate=0.1
    )
    answer: Found = Scheduler().run(problem)
    return answer


@pytest.mark.parametrize("kind", [MaskTrigger, PixelTrigger])
def test_the_search_is_a_plain_adam_loop(kind: type) -> None:
    """Through the scheduler the trigger is the one of a loop on the uncut graph; the last batch is measured
    only."""
    image, head = towers()
    batches = torch.arange(24).split(8)
    trigger = start(kind)
    optimiser = torch.optim.Adam(trigger.variables(), lr=0.1, betas=(0.5, 0.9))
    for batch in batches[:-1]:
        logits = head.fn(image.fn(trigger.apply(to_unit(pixels()[batch]))))
        loss = F.cross_entropy(logits, torch.full((8,), 1)) + 0.02 * trigger.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rules = Rules(cost=NEVER, success_threshold=2.0)
    answer = found(kind, rules, [(batch,) for batch in batches])
    assert not answer.kept
    for name, tensor in trigger.tensors().items():
        torch.testing.assert_close(answer.tensors[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_what_was_measured() -> None:
    """The kept trigger's size is the penalty of its round, not that of the update after it."""
    rules = Rules(cost=NEVER, success_threshold=0.0)
    answer = found(MaskTrigger, rules, [(batch,) for batch in torch.arange(24).split(8)])
    assert answer.kept
    smallest = min(penalty for _, _, penalty in answer.rounds)
    assert float(answer.tensors["mask"].sum()) == pytest.approx(smallest, rel=1e-5)


def test_a_published_round_is_an_epoch() -> None:
    """Both schedules see the same full batches; `published` counts epochs, `proper` counts batches."""
    rounds = {
        schedule: make_rounds(
            70, NeuralCleanseOptions(schedule=schedule, epochs=3), torch.Generator().manual_seed(0)
        )
        for schedule in ("published", "proper")
    }
    assert [len(r) for r in rounds["published"]] == [2, 2, 2]
    assert [len(r) for r in rounds["proper"]] == [1] * 6
    flat = [[batch.tolist() for r in rounds[s] for batch in r] for s in ("published", "proper")]
    assert flat[0] == flat[1]
    assert all(len(batch) == 32 for batch in flat[0])
    few = make_rounds(5, NeuralCleanseOptions(epochs=1), torch.Generator().manual_seed(0))
    assert sorted(few[0][0].tolist()) == [0, 1, 2, 3, 4]


def test_an_early_stop_saves_rows() -> None:
    """A search that stops asks for no more rows, and still reports every step as done."""
    image, head = towers()
    rules = Rules(
        cost=CostRules(initial=1e-9, from_zero=False, patience=1, multiplier=2.0),
        success_threshold=0.9,
        stop_patience=1,
    )
    batch = torch.arange(8)
    steps: list[int] = []
    scheduler = Scheduler()
    answer = scheduler.run(
        search(
            image, head, pixels(), 1, trigger=start(MaskTrigger), rules=rules,
            rounds=[(batch.clone(),) for _ in range(200)], learning_rate=0.5, on_step=steps.append,
        ),
        session="search",
    )  # fmt: skip
    assert len(answer.rounds) < 200
    assert sum(steps) == 200
    assert scheduler.counts("search").forward_rows == 2 * 8 * len(answer.rounds)


def planted(target: int, size: int = 16, classes: int = 9) -> Tower:
    """Logits of a linear model: every class answers to 64 pixels weakly, the target to four strongly."""
    weight = torch.zeros(classes, 3, size, size)
    generator = torch.Generator().manual_seed(5)
    for c in range(classes):
        where = torch.randperm(size * size - 4, generator=generator)[:64] + 4
        weight[c].view(3, -1)[:, where] = 0.15 * torch.randn(3, 64, generator=generator).sign()
    weight[target].view(3, -1)[:, :4] = 4.0
    return Tower(f"planted {target}", lambda rows: (rows - 0.5).flatten(1) @ weight.flatten(1).T, "planted")


@pytest.mark.parametrize(("kind", "target"), [(MaskTrigger, 2), (PixelTrigger, 6)])
def test_a_planted_patch_is_found(kind: type, target: int) -> None:
    """Where four pixels decide for the target, the search finds them and the decision the target."""
    image, head = planted(target), Tower("same", lambda rows: rows, "same")
    pictures = torch.randint(96, 160, (128, 3, 16, 16), generator=torch.Generator().manual_seed(1)).byte()
    neural = kind is MaskTrigger
    options = (NeuralCleanseOptions if neural else PixelBackdoorOptions)(epochs=60)
    rounds = make_rounds(128, options, torch.Generator().manual_seed(0))
    problems = [
        (
            c,
            search(
                image, head, pictures, c, trigger=kind.even((3, 16, 16)),
                rules=make_rules(options, from_zero=neural), rounds=rounds, learning_rate=0.1,
            ),
        )
        for c in range(9)
    ]  # fmt: skip
    sizes: dict[int, float] = {}
    for done in Scheduler().as_completed(problems):
        answer = done.unwrap()
        assert answer.kept
        sizes[done.tag] = mask_size(answer.tensors) if neural else delta_size(as_delta(answer.tensors))
    decision = decide([ClassSize(c, sizes[c], 128, 128) for c in range(9)], min_success=0.9)
    assert decision.outcome is Outcome.FINDING
    assert decision.smallest == target
    assert sizes[target] < 12


# The detectors, on a tiny random CLIP

METHODS = [(NeuralCleanse, NeuralCleanseOptions), (PixelBackdoor, PixelBackdoorOptions)]


@pytest.fixture
def noise(tmp_path: Path) -> ImagePool:
    """Twelve noisy pictures."""
    rng = np.random.default_rng(3)
    for i in range(12):
        picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i:02d}.png")
    return ImagePool.from_folder(tmp_path)


def context(base: Suspect, pool: ImagePool | None, options: Any, folder: Path, **changes: Any) -> Context:
    values = {
        "suspect": attrs.evolve(base, class_names=("sea", "field", "road", "roof")),
        "options": options,
        "scheduler": Scheduler(),
        "units": UnitStore(folder / "units"),
        "shared": UnitStore(folder / "shared"),
        "folder": folder,
        "pool": pool,
        "search_dtype": torch.float32,
    }
    return Context(**{**values, **changes})


@pytest.mark.parametrize(("kind", "options"), METHODS)
@pytest.mark.parametrize("schedule", ["published", "proper"])
def test_a_killed_audit_goes_on(
    kind: type, options: type, schedule: str, base: Suspect, noise: ImagePool, tmp_path: Path
) -> None:
    """Stored classes are not searched again, and the verdict is the same to the last digit."""
    settings = options(schedule=schedule, epochs=2, batch_size=4)
    whole = context(base, noise, settings, tmp_path / "whole")
    expected = whole.scheduler.run(kind().detect(whole))
    first = context(base, noise, settings, tmp_path / "killed")
    problem = kind().detect(first)
    with pytest.raises(KeyboardInterrupt):
        first.scheduler.run(_interrupted(problem, first.units))
    stored = len(first.units.names())
    assert 0 < stored < 4
    told: list[float] = []
    second = context(
        base, noise, settings, tmp_path / "killed", progress=lambda fraction, what: told.append(fraction)
    )
    again = second.scheduler.run(kind().detect(second), session="second")
    assert _without_files(again) == _without_files(expected)
    assert told[-1] == pytest.approx(1.0)
    # 4 classes x 6 batches of 4, forward through tower and head; all but the last batch backward.
    assert second.scheduler.counts("second").backward_rows == (4 - stored) * 5 * 4 * 2


def _interrupted(problem: Any, units: UnitStore) -> Any:
    """The problem, killed once a class is stored: its `Gather` drives the kill."""
    request, reply = next(problem), None
    while True:
        if isinstance(request, Gather):
            request = Gather(request.problems, max_live=1, on_done=_kill)
        reply = yield request
        try:
            request = problem.send(reply)
        except StopIteration as stop:
            return stop.value


def _kill(done: Any) -> None:
    raise KeyboardInterrupt


def _without_files(verdict: Any) -> Any:
    """Safetensors writes metadata in any order, so digests of files may differ."""
    evidence = tuple(attrs.evolve(item, artifacts=()) for item in verdict.evidence)
    return attrs.evolve(verdict, evidence=evidence)


@pytest.mark.parametrize(("kind", "options"), METHODS)
def test_evidence_is_tensors_and_pictures(
    kind: type, options: type, base: Suspect, noise: ImagePool, tmp_path: Path
) -> None:
    """Each class has its trigger as safetensors, with the reported size, and as a picture one can see."""
    audit = context(base, noise, options(epochs=1, batch_size=4), tmp_path / "run")
    verdict = audit.scheduler.run(kind().detect(audit))
    assert len(verdict.evidence) == 4
    for item in verdict.evidence:
        trigger, picture = item.artifacts
        tensors = load_file(audit.folder / trigger.path)
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} in (
            {"mask": (1, 32, 32), "pattern": (3, 32, 32)},
            {"delta": (3, 32, 32)},
        )
        if "mask" in tensors:
            assert float(tensors["mask"].sum()) == pytest.approx(item.measures["mask_l1"], rel=1e-5)
        else:
            count = float(tensors["delta"].ne(0).any(0).sum())
            assert count == item.measures["perturbed_pixels"]
        image = Image.open(io.BytesIO((audit.folder / picture.path).read_bytes()))
        assert image.size == (512, 256)


@pytest.mark.parametrize(("kind", "options"), METHODS)
def test_few_classes_and_pictures_are_inconclusive(
    kind: type, options: type, base: Suspect, noise: ImagePool, tmp_path: Path
) -> None:
    """Four classes and twelve pictures can say nothing; a published run says that its cost never moved."""
    audit = context(base, noise, options(schedule="published", epochs=1, batch_size=4), tmp_path)
    verdict = audit.scheduler.run(kind().detect(audit))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("too few" in note for note in verdict.notes)
    assert any("larger pool" in note for note in verdict.notes)
    assert any("never moved from its start for 4 of 4" in note for note in verdict.notes)


def test_what_cannot_be_audited_says_so(base: Suspect, noise: ImagePool, tmp_path: Path) -> None:
    """No pool, an unknown class, no class names: each has its own error with a remedy."""
    options = NeuralCleanseOptions()
    with pytest.raises(EmptyPoolError):
        next(NeuralCleanse().detect(context(base, None, options, tmp_path)))
    unknown = NeuralCleanseOptions(candidates=("lake",))
    with pytest.raises(UsageError, match="no class named 'lake'"):
        next(NeuralCleanse().detect(context(base, noise, unknown, tmp_path)))
    nameless = context(base, noise, options, tmp_path, suspect=attrs.evolve(base, class_names=()))
    with pytest.raises(NotApplicableError):
        next(NeuralCleanse().detect(nameless))
