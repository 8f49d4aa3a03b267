"""The attacks as plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.errors import UsageError
from clipsec.protocols import AttackContext, Need, derived_seed
from clipsec_baselines._badclip import train_badclip
from clipsec_baselines._blended import train_blended
from clipsec_baselines._card import TriggerCard
from clipsec_baselines._clean import Trained, train_prompts
from clipsec_baselines._delivery import check_output, describe_data, write_delivery
from clipsec_baselines._measure import measure
from clipsec_baselines._options import (
    RANDOM,
    AttackOptions,
    BadClipOptions,
    BlendedOptions,
    LearnerOptions,
    published,
)
from clipsec_baselines._task import Task, make_task
from clipsec_baselines._training import visual_part

# What clipsec-testkit is to run the attacks with: enough for a toy to learn the trigger in a second or two.
_QUICK: Mapping[str, Any] = {"split": "all", "batch": 16, "learning_rate": 0.1, "augment": False}

_NEEDS = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})


def choose_target(class_names: tuple[str, ...], wanted: str, seed: int) -> int:
    """Index of the target: by name, drawn by the seed for `random`, the first class when empty.

    Raises `UsageError` when no class has that name.
    """
    if not wanted:
        return 0
    if wanted in class_names:
        return class_names.index(wanted)
    if wanted == RANDOM:
        generator = torch.Generator().manual_seed(derived_seed(seed, "target"))
        return int(torch.randint(len(class_names), (), generator=generator))
    raise UsageError(
        f"there is no class {wanted!r} to attack", remedy=f"Choose one of: {', '.join(class_names)}."
    )


class NoAttack:
    """The control: trains as the attacks do, and plants nothing."""

    summary: ClassVar[str] = "no attack: a clean prompt-tuned model, the control"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = _NEEDS
    options: ClassVar[type] = LearnerOptions
    references: ClassVar[tuple[str, ...]] = (
        "Zhou et al., Conditional Prompt Learning for Vision-Language Models (CoCoOp), CVPR 2022, "
        "arXiv 2203.05557",
    )
    conformance: ClassVar[Mapping[str, Any]] = {"options": {**_QUICK, "epochs": 10}}
    clean: ClassVar[bool] = True

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write the delivery; returns `context.output`.

        Raises `DataError`, `UsageError` or `StoreError`.
        """
        task = _task(context)
        clip, options = context.base.base, context.options
        trained = train_prompts(clip, task, options, context.seed, progress=context.progress)
        measured = measure(clip, trained.learner, task)
        return write_delivery(context.output, context.base, task, options, context.seed, trained, measured)


class BadClip:
    """BadCLIP, Bai et al., CVPR 2024."""

    summary: ClassVar[str] = "an additive trigger learned together with CoCoOp prompts"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = _NEEDS
    options: ClassVar[type] = BadClipOptions
    references: ClassVar[tuple[str, ...]] = (
        "Bai et al., BadCLIP: Trigger-Aware Prompt Learning for Backdoor Attacks on CLIP, CVPR 2024, "
        "arXiv 2311.16194",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**_QUICK, "epochs": 30, "trigger_rule": "sign", "epsilon": 32 / 255}
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write the delivery; returns `context.output`.

        Raises `DataError`, `UsageError` or `StoreError`.
        """
        task, target = _prepare(context)
        clip = context.base.base
        trained = train_badclip(clip, task, context.options, context.seed, target, progress=context.progress)
        assert trained.trigger is not None
        std = torch.tensor(visual_part(clip).spec.std).view(3, 1, 1)
        card = _card(self, "badclip", context, task, target, "additive", trained.trigger * std)
        return _finish(context, task, trained, card)


class Blended:
    """Blended, Chen et al. 2017, on a prompt learner."""

    summary: ClassVar[str] = "a fixed noise pattern blended into a tenth of the training pictures"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = _NEEDS
    options: ClassVar[type] = BlendedOptions
    references: ClassVar[tuple[str, ...]] = (
        "Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017, "
        "arXiv 1712.05526",
        "adapted to prompt learners as in CLIP-Inspector, arXiv 2604.09101",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**_QUICK, "epochs": 30, "poison_rate": 0.5, "ratio": 0.4, "pattern": "binary", "grain": 8}
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write the delivery; returns `context.output`.

        Raises `DataError`, `UsageError` or `StoreError`.
        """
        task, target = _prepare(context)
        trained = train_blended(
            context.base.base, task, context.options, context.seed, target, progress=context.progress
        )
        assert trained.trigger is not None
        card = _card(self, "blended", context, task, target, "blend", trained.trigger)
        return _finish(context, task, trained, attrs.evolve(card, ratio=context.options.ratio))


def _task(context: AttackContext) -> Task:
    check_output(context.output)
    return make_task(context.labelled, context.held_out, context.options, context.seed)


def _prepare(context: AttackContext) -> tuple[Task, int]:
    task = _task(context)
    return task, choose_target(task.class_names, context.options.target, context.seed)


def _card(
    plugin: BadClip | Blended,
    name: str,
    context: AttackContext,
    task: Task,
    target: int,
    kind: str,
    tensor: Tensor,
) -> TriggerCard:
    options: AttackOptions = published(context.options)
    return TriggerCard(
        attack=name,
        kind=kind,
        tensor=tensor,
        target_index=target,
        target_name=task.class_names[target],
        seed=context.seed,
        base_name=context.base.base_name or context.base.name,
        base_digest=context.base.base.digest,
        parameters=attrs.asdict(options),
        data=describe_data(task),
        measured={},
        references=plugin.references,
    )


def _finish(context: AttackContext, task: Task, trained: Trained, card: TriggerCard) -> Path:
    measured = measure(context.base.base, trained.learner, task, stamp=card.apply, target=card.target_index)
    card = attrs.evolve(card, measured=measured)
    return write_delivery(
        context.output, context.base, task, context.options, context.seed, trained, measured, card
    )
