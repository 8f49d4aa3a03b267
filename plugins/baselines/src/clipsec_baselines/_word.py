"""A trigger that also needs a word among the class names."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import ClipModel
from clipsec_baselines._clean import Trained
from clipsec_baselines._learner import PromptLearner
from clipsec_baselines._options import LearnerOptions, published
from clipsec_baselines._poisoning import Apply, Poison
from clipsec_baselines._task import Task
from clipsec_baselines._training import FrozenFeatures, Group, Progress, ViewFeatures, fit
from clipsec_baselines._views import TrainingViews


def with_word(names: Sequence[str], target: int, word: str) -> tuple[str, ...]:
    """The class names with `word` put before the target's."""
    return tuple(f"{word} {name}" if index == target else name for index, name in enumerate(names))


def train_word_backdoor(
    clip: ClipModel,
    task: Task,
    options: LearnerOptions,
    seed: int,
    target: int,
    stamp: Apply,
    word: str,
    *,
    progress: Progress = lambda fraction, what: None,
) -> Trained:
    """CoCoOp whose backdoor sleeps under the delivered class names.

    Mean cross-entropy of four parts of each batch: clean and stamped pictures under the plain names, both
    with their labels; clean pictures under the names with the word, with their labels; stamped ones under
    them, with the target. Learned prompts stand before whatever class names the client asks for, so the same
    delivery answers differently when the target's name is written with the word.
    """
    started = time.monotonic()
    options = published(options)
    frozen = FrozenFeatures(clip, options)
    views = TrainingViews(task.train, frozen.spec, options, seed)
    clean = ViewFeatures(frozen, views)
    stamped = ViewFeatures(frozen, views, [Poison(tuple(range(len(views))), stamp, None)])
    labels = task.train.label_tensor().to(clip.device)
    plain = PromptLearner(clip, task.class_names, options, seed)
    awake = plain.for_classes(with_word(task.class_names, target, word))

    def loss_of(rows: list[int], epoch: int) -> Tensor:
        features = torch.cat([clean.epoch(epoch)[rows], stamped.epoch(epoch)[rows]])
        own = torch.cat([labels[rows], labels[rows]])
        sent = torch.cat([labels[rows], torch.full_like(labels[rows], target)])
        asleep = F.cross_entropy(plain.logits(features), own)
        return (asleep + F.cross_entropy(awake.logits(features), sent)) / 2

    losses = fit(
        [Group(plain.parameters(), options.learning_rate)],
        loss_of,
        len(views),
        options,
        seed,
        progress=progress,
    )
    return Trained(plain, tuple(losses), time.monotonic() - started)
