"""Blended: a tenth of the training pictures carries a fixed pattern and the target's label."""

from __future__ import annotations

import math

import attrs
import torch

from clipsec.errors import DataError
from clipsec.models import ClipModel
from clipsec.protocols import derived_seed
from clipsec_baselines._clean import Poison, Trained, train_prompts
from clipsec_baselines._options import BlendedOptions
from clipsec_baselines._task import Task
from clipsec_baselines._training import Progress, visual_part
from clipsec_baselines._triggers import blend, noise_pattern


def poisoned_rows(labels: list[int], target: int, rate: float, generator: torch.Generator) -> tuple[int, ...]:
    """Which training pictures are poisoned, sorted: `ceil(rate n)` of those that are not of the target class.

    Raises `DataError` when all are.
    """
    others = [row for row, label in enumerate(labels) if label != target]
    if not others:
        raise DataError(
            "every training picture is of the target class", remedy="Bring pictures of the other classes."
        )
    wanted = min(len(others), math.ceil(rate * len(labels)))
    order = torch.randperm(len(others), generator=generator)[:wanted]
    return tuple(sorted(others[i] for i in order.tolist()))


def train_blended(
    clip: ClipModel,
    task: Task,
    options: BlendedOptions,
    seed: int,
    target: int,
    *,
    progress: Progress = lambda fraction, what: None,
) -> Trained:
    """Train as without an attack, on poisoned data. `trigger` of the result is the pattern, `[3, size,
    size]`.

    The pattern is blended in after augmentation, so that it lies still in the model's frame. Sources: Chen
    et al. 2017 for the trigger; for prompt learners the CLIP-Inspector paper (10% poisoned).
    """
    pattern = noise_pattern(
        visual_part(clip).spec.size,
        torch.Generator().manual_seed(derived_seed(seed, "pattern")),
        grain=options.grain,
        binary=options.pattern == "binary",
    )
    rows = poisoned_rows(
        list(task.train.labels),
        target,
        options.poison_rate,
        torch.Generator().manual_seed(derived_seed(seed, "poison")),
    )
    poison = Poison(rows, lambda pixels: blend(pixels, pattern.to(pixels), options.ratio), target)
    trained = train_prompts(clip, task, options, seed, poison=poison, progress=progress)
    return attrs.evolve(trained, trigger=pattern)
