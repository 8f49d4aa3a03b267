"""Training a prompt learner, on clean pictures or on poisoned ones."""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import ClipModel
from clipsec_baselines._learner import PromptLearner
from clipsec_baselines._options import LearnerOptions, published
from clipsec_baselines._poisoning import Poison
from clipsec_baselines._task import Task
from clipsec_baselines._training import FrozenFeatures, Group, Progress, ViewFeatures, fit
from clipsec_baselines._views import TrainingViews


@attrs.frozen(eq=False)
class Trained:
    """A prompt learner after training."""

    learner: PromptLearner
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    seconds: float
    trigger: Tensor | None = None
    """What an attack planted; what it means is the attack's."""


def train_prompts(
    clip: ClipModel,
    task: Task,
    options: LearnerOptions,
    seed: int,
    *,
    poisons: Sequence[Poison] = (),
    progress: Progress = lambda fraction, what: None,
) -> Trained:
    """CoOp or CoCoOp on the Seen classes of a task; the base stays as it is.

    Cross-entropy over the Seen classes. Of `poisons` no two name the same picture. Same seed, same machine,
    one thread: bit-equal prompts. Sources: Zhou et al., IJCV 2022 (CoOp) and CVPR 2022 (CoCoOp), with the
    settings of their repository.
    """
    started = time.monotonic()
    options = published(options)
    frozen = FrozenFeatures(clip, options)
    learner = PromptLearner(clip, task.class_names, options, seed)
    views = TrainingViews(task.train, frozen.spec, options, seed)
    labels = task.train.label_tensor().to(clip.device)
    features = ViewFeatures(frozen, views, poisons)
    for poison in poisons:
        if poison.target is not None:
            labels[torch.tensor(poison.rows, device=labels.device)] = poison.target

    def loss_of(rows: list[int], epoch: int) -> Tensor:
        return F.cross_entropy(learner.logits(features.epoch(epoch)[rows]), labels[rows])

    losses = fit(
        [Group(learner.parameters(), options.learning_rate)],
        loss_of,
        len(views),
        options,
        seed,
        progress=progress,
    )
    return Trained(learner, tuple(losses), time.monotonic() - started)
