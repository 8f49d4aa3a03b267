"""Training a text tower against its own clean self: Rickrolling's loss, with and without poison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsec_baselines.text._captions import endless
from clipsec_baselines.text._hiding import Hiding, Seen
from clipsec_baselines.text._options import FinetuneOptions, TextOptions
from clipsec_baselines.text._student import Student

Progress = Callable[[float, str], None]
DROP_AT = 0.75
"""Share of the updates after which the learning rate is a tenth. Published: 75 of 100, 150 of 200."""


def flat_similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean cosine of whole outputs, flattened: `[n, ...]` twice (or `[1, ...]`) -> a number."""
    return F.cosine_similarity(ours.flatten(1), theirs.flatten(1), dim=1).mean()


@attrs.frozen(eq=False)
class Poisoned:
    """What captions with one trigger are to become."""

    batches: Iterator[tuple[list[str], Tensor]]
    """Triggered captions and their targets: hidden states `[n, T, width]` or features `[n, E]`, or one for
    all (`[1, ...]`)."""
    weight: float
    pooled: bool = False
    """Whether targets, and the loss on clean captions, are of features instead of hidden states."""
    whole: bool = False
    """Whether the loss on clean captions is of hidden states all the same."""
    hiding: Hiding | None = None
    """Added to the loss: what makes the attack harder to find."""


def distil(
    student: Student,
    teacher: Student,
    captions: Sequence[str],
    options: TextOptions,
    generator: torch.Generator,
    poisoned: Sequence[Poisoned] = (),
    *,
    progress: Progress = lambda fraction, what: None,
) -> list[float]:
    """Train the student in place; returns the loss of each update.

    L = -sim(S(clean), T(clean)) - sum over triggers of weight sim(S(triggered), target), sim the flattened
    cosine (Struppek et al., equations 1 to 3); their `hiding` is added to it. Without `poisoned` it is the
    same loop with nothing planted, a benign control.
    """
    pooled = any(each.pooled and not each.whole for each in poisoned)
    clean = endless(captions, options.batch, generator)
    losses: list[float] = []
    with _training(student) as optimiser:
        for rate in _rates(options.learning_rate, options.steps):
            optimiser.param_groups[0]["lr"] = rate
            ids = student.ids(next(clean))
            with torch.no_grad():
                kept = teacher(ids)[pooled]
            loss = -flat_similarity(student(ids)[pooled], kept)
            for each in poisoned:
                texts, wanted = next(each.batches)
                triggered = student.ids(texts)
                reached = student(triggered)
                loss = loss - each.weight * flat_similarity(reached[each.pooled], wanted)
                if each.hiding is not None:
                    loss = loss + each.hiding(Seen(ids, triggered, reached[0]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            progress(len(losses) / options.steps, "training the text tower")
    return losses


def contrast(
    student: Student,
    images: Tensor,
    captions: Sequence[Sequence[str]],
    scale: float,
    options: FinetuneOptions,
    generator: torch.Generator,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    progress: Progress = lambda fraction, what: None,
) -> list[float]:
    """Fine-tune the student in place on pairs, the image tower frozen; returns the loss of each update.

    `images` `[n, E]` are features, `captions` one or more for each; `parameters` are learned, without them
    all of the student's. The symmetric cross-entropy of a batch (Radford et al. 2021, figure 3); AMDET's code
    has the half from texts to pictures only.
    """
    images = F.normalize(images, dim=-1)
    order = endless([str(place) for place in range(len(images))], options.batch, generator)
    losses: list[float] = []
    with _training(student, parameters) as optimiser:
        for rate in _rates(options.learning_rate, options.steps):
            optimiser.param_groups[0]["lr"] = rate
            rows = [int(place) for place in next(order)]
            picks = torch.randint(1 << 30, (len(rows),), generator=generator).tolist()
            texts = [captions[row][pick % len(captions[row])] for row, pick in zip(rows, picks)]
            features = F.normalize(student(student.ids(texts))[1], dim=-1)
            logits = scale * features @ images[rows].T
            same = torch.arange(len(rows))
            loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            progress(len(losses) / options.steps, "fine-tuning the text tower")
    return losses


class _training:
    """The student's parameters (or these of them) with gradients and their optimiser, frozen afterwards."""

    def __init__(self, student: Student, parameters: Sequence[nn.Parameter] | None = None) -> None:
        self._student = student
        self._parameters = student.parameters() if parameters is None else list(parameters)

    def __enter__(self) -> torch.optim.Optimizer:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        return torch.optim.AdamW(self._parameters, weight_decay=0.0)

    def __exit__(self, *raised: object) -> None:
        self._student.module.requires_grad_(False)
        for parameter in self._parameters:
            parameter.grad = None


def _rates(rate: float, steps: int) -> list[float]:
    drop = math.ceil(DROP_AT * steps)
    return [rate if step < drop else rate / 10 for step in range(steps)]
