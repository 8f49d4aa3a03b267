"""What an attacker who knows AMDET (arXiv 2512.00343) adds to the loss, so that it does not find the target.

AMDET searches a vector in the tower's input that makes all tokens of a prompt alike, or all prompts alike at
the token that the feature is read at. The measures are written here anew: an attacker has no detector's code.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import ClipModel, end_positions, is_causal, token_table
from clipsec_baselines.text._options import AdaptiveTextOptions
from clipsec_baselines.text._student import Student

FIRST_STEP = 0.25
"""Length of the first step of a search, in lengths of the longest vector that it may find."""


@attrs.frozen(eq=False)
class Seen:
    """What one update saw of the student."""

    clean: Tensor
    """Ids of the clean captions, `[n, T]`."""
    triggered: Tensor
    """Ids of the triggered ones, `[m, T]`."""
    hidden: Tensor
    """Hidden states of the triggered ones, `[m, T, D]`, with a graph."""


Hiding = Callable[[Seen], Tensor]
"""A number that is added to the loss of an update."""


def assimilation(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean cosine over all pairs of tokens of each row, a token with itself included: `[n, T, D]` -> `[n]`.

    `mask` `[n, T]` says which tokens count. It is the squared length of their mean unit vector.
    """
    units = F.normalize(hidden, dim=-1) * mask[..., None]
    return (units.sum(dim=1) / mask.sum(dim=1, keepdim=True)).square().sum(dim=-1)


def text_mask(clip: ClipModel, ids: Tensor) -> Tensor:
    """Which of the tokens `[n, T]` are text, the start and the end token included; padding is not.

    Towers that read their feature at the last position have no padding.
    """
    return torch.arange(ids.shape[1]) <= end_positions(clip, ids)[:, None]


def likeness_of_others(hidden: Tensor, kept: Tensor, ends: Tensor) -> Tensor:
    """Mean cosine of `hidden` and `kept` `[n, T, D]`, token by token, but for `ends` `[n]`: `[n]`."""
    others = torch.arange(hidden.shape[1]) != ends[:, None]
    return (F.cosine_similarity(hidden, kept, dim=-1) * others).sum(dim=1) / others.sum(dim=1)


def oneness(rows: Tensor) -> Tensor:
    """The squared length of the mean unit vector of `rows` `[n, D]`: 1 when all point one way."""
    return F.normalize(rows, dim=-1).mean(dim=0).square().sum()


def spread_tokens(student: Student) -> Hiding:
    """The mean assimilation of triggered captions over their text."""
    return lambda seen: assimilation(seen.hidden, text_mask(student.clip, seen.triggered)).mean()


def keep_others(teacher: Student) -> Hiding:
    """How far triggered captions are from what the clean tower makes of them, but for the end token."""

    def hiding(seen: Seen) -> Tensor:
        with torch.no_grad():
            kept = teacher(seen.triggered)[0]
        ends = end_positions(teacher.clip, seen.triggered)
        return 1 - likeness_of_others(seen.hidden, kept, ends).mean()

    return hiding


class Inversion:
    """Adversarial training: what an inversion of the student finds is made to collapse it less.

    Every `every` updates a vector is searched anew, `inner` steps of Adam from a random start, that makes the
    prompts one at the end token in the student more than in the teacher; in each update, the difference at
    the last vector is added to the loss.
    """

    def __init__(
        self, student: Student, teacher: Student, options: AdaptiveTextOptions, generator: torch.Generator
    ) -> None:
        self._student, self._teacher, self._options = student, teacher, options
        self._generator = generator
        self._longest = options.limit * float(token_table(student.clip).norm(dim=1).max())
        self._updates = 0
        self._vector: Tensor | None = None

    def __call__(self, seen: Seen) -> Tensor:
        if self._vector is None or self._updates % self._options.every == 0:
            self._vector = self.search(seen.clean)
        self._updates += 1
        return self.gap(seen.clean, self._vector)

    def gap(self, ids: Tensor, vector: Tensor) -> Tensor:
        """How much more the vector `[D]`, put in before all text, makes the prompts one in the student."""
        causal = is_causal(self._student.clip)
        rows = insert_vector(self._student.embed(ids), vector, 1 if causal else 0)
        ends = (end_positions(self._student.clip, ids) + causal).clamp(max=ids.shape[1] - 1)
        towers = (self._student, self._teacher)
        ours, theirs = (oneness(tower.states(rows)[torch.arange(len(ids)), ends]) for tower in towers)
        return ours - theirs

    def search(self, ids: Tensor) -> Tensor:
        """A vector `[D]` that makes these prompts one."""
        width = self._student.embed(ids[:1]).shape[-1]
        vector = _shortened(torch.randn(width, generator=self._generator), self._longest).requires_grad_()
        optimiser = torch.optim.Adam([vector], lr=FIRST_STEP * self._longest / width**0.5)
        for _ in range(self._options.inner):
            (gradient,) = torch.autograd.grad(-self.gap(ids, vector), vector)
            vector.grad = gradient
            optimiser.step()
            with torch.no_grad():
                vector.copy_(_shortened(vector, self._longest))
        return vector.detach()


def insert_vector(rows: Tensor, vector: Tensor, at: int) -> Tensor:
    """Input embeddings `[n, T, D]` with `vector` `[D]` before position `at`; what follows moves on by one,
    the last is cut off."""
    put = vector.expand(len(rows), 1, -1)
    return torch.cat([rows[:, :at], put, rows[:, at:-1]], dim=1)


def _shortened(vector: Tensor, longest: float) -> Tensor:
    return vector * (longest / vector.norm().clamp_min(1e-12)).clamp(max=1.0)
