"""What the attacks share as plugins: the task, the target, the measurement, the delivery, the cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch

from clipsec.errors import UsageError
from clipsec.protocols import AttackContext, Need, derived_seed
from clipsec.store import require_new
from clipsec.triggers import TriggerCard
from clipsec_baselines._clean import Trained
from clipsec_baselines._delivery import describe_data, write_delivery
from clipsec_baselines._measure import measure
from clipsec_baselines._options import RANDOM, LearnerOptions, published
from clipsec_baselines._poisoning import Planted
from clipsec_baselines._task import Task, make_task

QUICK: Mapping[str, Any] = {"split": "all", "batch": 16, "learning_rate": 0.2, "augment": False, "epochs": 12}
"""What clipsec-testkit is to run the attacks with: enough for a toy to learn the trigger in seconds."""


class PromptAttack:
    """Base of the attacks on prompt learners: says the facts, trains by `train`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type]
    references: ClassVar[tuple[str, ...]]
    conformance: ClassVar[Mapping[str, Any]] = {"options": QUICK}

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """The learned prompts, and what was planted: first the trigger for `target`."""
        raise NotImplementedError

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write the delivery; returns `context.output`.

        Raises `DataError`, `UsageError` or `StoreError`.
        """
        require_new(context.output)
        options: LearnerOptions = context.options
        task = make_task(context.labelled, context.held_out, options, context.seed)
        target = choose_target(task.class_names, getattr(options, "target", ""), context.seed)
        trained, planted = self.train(context, task, target)
        cards = [self._card(context, task, trained, each) for each in planted]
        if len(cards) > 1:
            names = tuple(card.target_name for card in cards)
            cards = [attrs.evolve(card, target_names=names) for card in cards]
        measured = cards[0].measured if cards else measure(context.base.base, trained.learner, task)
        return write_delivery(
            context.output, context.base, task, options, context.seed, trained, measured, cards
        )

    def _card(self, context: AttackContext, task: Task, trained: Trained, planted: Planted) -> TriggerCard:
        return TriggerCard(
            attack=self.name,
            stamp=planted.stamp,
            target_index=planted.target,
            target_name=task.class_names[planted.target],
            seed=context.seed,
            base_name=context.base.base_name or context.base.name,
            base_digest=context.base.base.digest,
            word=planted.word,
            parameters=attrs.asdict(published(context.options)),
            data=describe_data(task),
            measured=measure(context.base.base, trained.learner, task, planted),
            references=self.references,
        )


def choose_target(
    class_names: Sequence[str], wanted: str, seed: int, *, other_than: int | None = None
) -> int:
    """Index of the target: by name, drawn by the seed for `random`, the first class when empty.

    With `other_than`, the index of another class than that. Raises `UsageError` when no class has that name.
    """
    allowed = [index for index in range(len(class_names)) if index != other_than]
    if not wanted:
        return allowed[0]
    if wanted in class_names and list(class_names).index(wanted) in allowed:
        return list(class_names).index(wanted)
    if wanted == RANDOM:
        purpose = "target" if other_than is None else "second target"
        generator = torch.Generator().manual_seed(derived_seed(seed, purpose))
        return allowed[int(torch.randint(len(allowed), (), generator=generator))]
    role = "target" if other_than is None else "second target"
    raise UsageError(
        f"{wanted!r} cannot be the {role}",
        remedy=f"Choose one of: {', '.join(class_names[index] for index in allowed)}.",
    )
