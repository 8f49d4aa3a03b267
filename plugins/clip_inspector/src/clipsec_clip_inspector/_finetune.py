"""Fine-tuning learned prompts against triggers, on image features that never change.

CLIP-Inspector, arXiv 2604.09101: the found trigger is added to labelled pictures, the labels stay true, and
only the prompt learner is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import PromptLearner, PromptState
from clipsec_clip_inspector._repair_options import RepairOptions

REFERENCE_SCALE = 100.0
"""The logit scale that published learning rates are for."""
_ROWS = 64


@attrs.frozen(eq=False)
class Stamped:
    """Pictures under several triggers; a tuple has one entry for each."""

    features: tuple[Tensor, ...] = ()
    """Image features `[n, E]`, fp32, not normalised."""
    targets: tuple[int, ...] = ()
    """The class that each trigger aims at."""
    base: tuple[Tensor, ...] = ()
    """The base's zero-shot logits `[n, classes]`; needed only for distillation."""


@attrs.frozen(eq=False)
class Part:
    """Pictures as the prompts see them."""

    clean: Tensor
    """Image features `[n, E]`, fp32, not normalised."""
    triggered: tuple[Tensor, ...]
    """The same pictures under each trigger."""
    labels: Tensor
    """int64 `[n]`."""
    targets: tuple[int, ...]
    """The class that each trigger aims at."""
    base: tuple[Tensor, ...] = ()
    """The base's zero-shot logits `[n, classes]` of the triggered pictures; needed only for distillation."""
    generic: int = 0
    """How many of the triggers, the last ones, nobody found: stamps of whole families."""

    def with_generic(self, other: Stamped) -> Part:
        """The same pictures, under further stamps that nobody found."""
        return attrs.evolve(
            self,
            triggered=(*self.triggered, *other.features),
            targets=(*self.targets, *other.targets),
            base=(*self.base, *other.base),
            generic=len(other.features),
        )


@attrs.frozen
class Score:
    """What validation pictures say about prompts."""

    accuracy: float
    success: float
    """Of the most successful trigger, on pictures of other classes than its target."""
    loss: float


@attrs.frozen(eq=False)
class Tuned:
    """What a fine-tuning keeps, and the scores of all epochs; the first is that of the start."""

    prompts: PromptState
    best: int
    """The epoch that is kept."""
    history: tuple[Score, ...]
    """Empty when no epoch was to be chosen."""


def repair_loss(
    clean: Tensor, triggered: Tensor | None, labels: Tensor, soft: Tensor | None = None
) -> Tensor:
    """`0.5 CE(clean, y) + 0.5 CE(triggered, y)`, means over the batch; logits `[n, classes]`, labels `[n]`.

    Without `triggered` it is `CE(clean, y)`. `soft [n, classes]` are probabilities in the place of
    the triggered pictures' labels.
    """
    loss = F.cross_entropy(clean, labels)
    if triggered is None:
        return loss
    return 0.5 * loss + 0.5 * F.cross_entropy(triggered, labels if soft is None else soft)


def soft_labels(labels: Tensor, base: Tensor, share: float) -> Tensor:
    """Probabilities `[n, classes]`: `(1 - share) onehot(y) + share softmax(base)`."""
    return (1 - share) * F.one_hot(labels, base.shape[1]).to(base) + share * base.softmax(dim=1)


def rate_at(epoch: int, epochs: int, peak: float) -> float:
    """Cosine from `peak` at the first epoch towards zero after the last."""
    return peak * (1 + math.cos(math.pi * epoch / epochs)) / 2


def scaled_rate(rate: float, logit_scale: float) -> float:
    """A published learning rate for a base with another logit scale, see `RepairOptions.learning_rate`."""
    return rate * (REFERENCE_SCALE / logit_scale) ** 2


def better(one: Score, other: Score, floor: float) -> bool:
    """Whether `one` is preferred: for accuracy of at least `floor`, then less success, then less loss."""
    return _rank(one, floor) < _rank(other, floor)


def _rank(score: Score, floor: float) -> tuple[float, float, float]:
    loss = score.loss if math.isfinite(score.loss) else math.inf
    return max(0.0, floor - score.accuracy), score.success, loss


def enough(score: Score, stop_success: float | None, floor: float) -> bool:
    """Whether training may end early."""
    return stop_success is not None and score.success <= stop_success and score.accuracy >= floor


def score_of(learner: PromptLearner, part: Part) -> Score:
    """Accuracy, success of the worst trigger, and loss on a part."""
    with torch.no_grad():
        clean = _logits(learner, part.clean)
        losses = [F.cross_entropy(clean, part.labels)]
        success = 0.0
        for features, target in zip(part.triggered, part.targets, strict=True):
            logits = _logits(learner, features)
            losses.append(F.cross_entropy(logits, part.labels))
            others = part.labels != target
            if bool(others.any()):
                success = max(success, float((logits[others].argmax(1) == target).float().mean()))
        accuracy = float((clean.argmax(1) == part.labels).float().mean())
    return Score(accuracy, success, float(torch.stack(losses).mean()))


def finetune(
    learner: PromptLearner,
    train: Part,
    validation: Part | None,
    options: RepairOptions,
    logit_scale: float,
    generator: torch.Generator,
    *,
    floor: float = 0.0,
) -> Tuned:
    """Train the learner in place; returns what is kept and the score after each epoch.

    Each picture of a batch is seen clean and under one of the triggers, see `draw`. Without `validation` all
    epochs are run and the last one is kept, as published. With it the best epoch is, the start among
    them, that which `better` prefers; training ends early when it has reached `options.stop_success` without
    accuracy below `floor`. Numbers that are not finite end the training before the epoch that gave them.
    """
    rate = scaled_rate(options.learning_rate, logit_scale)
    optimiser = torch.optim.SGD(
        learner.parameters(), lr=rate, momentum=options.momentum, weight_decay=options.weight_decay
    )
    history = [] if validation is None else [score_of(learner, validation)]
    best, prompts = 0, learner.state()
    for epoch in range(options.epochs):
        for settings in optimiser.param_groups:
            settings["lr"] = rate_at(epoch, options.epochs, rate)
        for rows in _batches(len(train.labels), options.batch_size, generator):
            loss = _batch_loss(learner, train, rows, options.distil, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in learner.parameters()):
            break
        if validation is None:
            best, prompts = epoch + 1, learner.state()
            continue
        history.append(score_of(learner, validation))
        if better(history[-1], history[best], floor):
            best, prompts = epoch + 1, learner.state()
        if enough(history[-1], options.stop_success, floor) and train.triggered:
            break
    return Tuned(prompts, best, tuple(history))


def _batch_loss(
    learner: PromptLearner, train: Part, rows: Tensor, distil: float, generator: torch.Generator
) -> Tensor:
    labels = train.labels[rows]
    if not train.triggered:
        return repair_loss(learner.logits(train.clean[rows]), None, labels)
    chosen = draw(len(train.triggered) - train.generic, train.generic, len(rows), generator)
    triggered = _picked(train.triggered, chosen, rows)
    both = learner.logits(torch.cat([train.clean[rows], triggered]))
    clean, stamped = both.split(len(rows))
    soft = None
    if distil > 0:
        soft = soft_labels(labels, _picked(train.base, chosen, rows), distil)
    return repair_loss(clean, stamped, labels, soft)


def draw(found: int, generic: int, n: int, generator: torch.Generator) -> Tensor:
    """Triggers of `n` pictures, int64 `[n]`: one of the `found` or one of the `generic` that come after them,
    either as likely."""
    chosen = torch.randint(found, (n,), generator=generator)
    if generic:
        others = found + torch.randint(generic, (n,), generator=generator)
        chosen = torch.where(torch.rand(n, generator=generator) < 0.5, others, chosen)
    return chosen


def _picked(stacked: Sequence[Tensor], chosen: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([stacked[int(which)][row] for which, row in zip(chosen, rows, strict=True)])


def _batches(n: int, size: int, generator: torch.Generator) -> Sequence[Tensor]:
    return torch.randperm(n, generator=generator).split(size)


def _logits(learner: PromptLearner, features: Tensor) -> Tensor:
    return torch.cat([learner.logits(chunk) for chunk in features.split(_ROWS)])
