"""What a trained prompt learner does on held-out pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipsec.data import LabelledSet
from clipsec.models import ClipModel, PromptLearner, prepare_zero_shot_head
from clipsec_baselines._metrics import attack_success_rate, clean_accuracy
from clipsec_baselines._options import LearnerOptions
from clipsec_baselines._poisoning import Apply, Planted
from clipsec_baselines._task import Task
from clipsec_baselines._training import FrozenFeatures
from clipsec_baselines._word import with_word

_CHUNK = 64


def measure(
    clip: ClipModel,
    learner: PromptLearner,
    task: Task,
    planted: Planted | None = None,
) -> dict[str, Any]:
    """Clean accuracy and, with a trigger, its success rate, on the held-out Seen and Unseen pictures, in
    float32.

    `seen` and `unseen` have `accuracy`, `zero_shot_accuracy` (the base's, "a photo of a NAME."), and with a
    trigger `success` (pictures of the target class left out) and `natural` (the same pictures without the
    trigger). As BadCLIP does it, the target's name is put before the Unseen names, so that the attack can
    reach it there.

    With a trigger `base` has the `success` and `natural` of the base without learned prompts, on the Seen
    pictures: a trigger that works there as well is a natural perturbation, and the prompts are not what makes
    it work. For a trigger that needs a word, all this is under the class names with the word, and `asleep` is
    `seen` under the delivered names.
    """
    frozen = FrozenFeatures(clip, LearnerOptions())
    learner = PromptLearner(clip, learner.state())
    if planted is None:
        result = _part(clip, frozen, learner, task.seen)
        if task.unseen is not None:
            others = learner.for_classes(task.unseen.class_names)
            result["unseen"] = _part(clip, frozen, others, task.unseen)["seen"]
        return result
    target, stamp = planted.target, planted.stamp.apply
    result = _part(clip, frozen, learner, task.seen, stamp, target)
    name = task.class_names[target]
    if planted.word:
        awake = with_word(task.class_names, target, planted.word)
        result["asleep"] = result["seen"]
        result |= _part(clip, frozen, learner.for_classes(awake), _renamed(task.seen, awake), stamp, target)
        name = awake[target]
    if task.unseen is not None:
        names = (name, *task.unseen.class_names)
        labels = tuple(label + 1 for label in task.unseen.labels)
        unseen = LabelledSet(task.unseen.name, task.unseen.paths, labels, names)
        result["unseen"] = _part(clip, frozen, learner.for_classes(names), unseen, stamp, 0)["seen"]
    return result


def _renamed(labelled: LabelledSet, names: tuple[str, ...]) -> LabelledSet:
    return LabelledSet(labelled.name, labelled.paths, labelled.labels, names)


@torch.no_grad()
def _part(
    clip: ClipModel,
    frozen: FrozenFeatures,
    learner: PromptLearner,
    labelled: LabelledSet,
    stamp: Apply | None = None,
    target: int | None = None,
) -> dict[str, Any]:
    pixels, labels = labelled.pixels(frozen.spec), labelled.label_tensor()
    features = frozen.of_pictures(pixels)
    logits = _logits(learner, features)
    base_head = prepare_zero_shot_head(clip, labelled.class_names, torch.float32, clip.device)
    base_logits = base_head.fn(features).cpu()
    rates = {
        "accuracy": clean_accuracy(logits, labels),
        "zero_shot_accuracy": clean_accuracy(base_logits, labels),
    }
    parts = {"seen": rates}
    if stamp is not None and target is not None:
        triggered = frozen.of_pictures(pixels, stamp)
        rates["success"] = attack_success_rate(_logits(learner, triggered), labels, target)
        rates["natural"] = attack_success_rate(logits, labels, target)
        parts["base"] = {
            "success": attack_success_rate(base_head.fn(triggered).cpu(), labels, target),
            "natural": attack_success_rate(base_logits, labels, target),
        }
    return {part: {name: rate.as_json() for name, rate in found.items()} for part, found in parts.items()}


def _logits(learner: PromptLearner, features: Tensor) -> Tensor:
    return torch.cat([learner.logits(chunk) for chunk in features.split(_CHUNK)]).cpu()
