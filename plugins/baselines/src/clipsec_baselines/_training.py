"""The training loop that every prompt learner and attack here shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from clipsec.models import ClipModel, VisualPart, prepare_image_tower
from clipsec.protocols import derived_seed
from clipsec_baselines._options import LearnerOptions
from clipsec_baselines._poisoning import Apply, Poison
from clipsec_baselines._schedule import rate_at
from clipsec_baselines._views import TrainingViews

Progress = Callable[[float, str], None]

_CHUNK = 32
"""Pictures in one call of the image tower when no gradient is needed."""


def visual_part(clip: ClipModel) -> VisualPart:
    """The base's image tower; `PromptLearner` has refused bases without one."""
    assert clip.visual is not None
    return clip.visual


class FrozenFeatures:
    """The frozen image tower, over training views and over test pictures.

    The tower never changes, so the feature of a view is computed once, in batches, and kept: the same numbers
    (to rounding) as running it inside every step, as the papers' code does.
    """

    def __init__(self, clip: ClipModel, options: LearnerOptions) -> None:
        self.spec = visual_part(clip).spec
        self.dtype = getattr(torch, options.image_dtype)
        self._tower = prepare_image_tower(clip, self.dtype, clip.device)

    def of(self, pixels: Tensor) -> Tensor:
        """Pixels `[n, 3, size, size]` in [0, 1] -> raw features fp32 `[n, E]`; differentiable."""
        return self._tower.fn(pixels.to(self._tower.device, self._tower.dtype)).float()

    @torch.no_grad()
    def of_pictures(self, pixels: Tensor, stamp: Apply | None = None) -> Tensor:
        """The same in chunks and without a graph, from uint8 or float pixels, perhaps stamped."""
        rows = []
        for chunk in pixels.split(_CHUNK):
            unit = chunk.float() / 255.0 if chunk.dtype == torch.uint8 else chunk
            rows.append(self.of(unit if stamp is None else stamp(unit)))
        return torch.cat(rows)


class ViewFeatures:
    """Features of training views, by epoch; computed when an epoch begins, kept by view.

    A stamp that stays as it is gives a view the same pixels every time, so its feature is kept too.
    """

    def __init__(self, frozen: FrozenFeatures, views: TrainingViews, poisons: Sequence[Poison] = ()) -> None:
        self._frozen = frozen
        self._views = views
        self._poisons = [(frozenset(poison.rows), poison.stamp) for poison in poisons]
        self._kept: dict[int, Tensor] = {}

    def epoch(self, epoch: int) -> Tensor:
        """Features `[n, E]` of every training picture as this epoch sees it."""
        view = self._views.view_of(epoch)
        if view not in self._kept:
            chunks = torch.arange(len(self._views)).split(_CHUNK)
            self._kept[view] = torch.cat([self._chunk(chunk.tolist(), view) for chunk in chunks])
        return self._kept[view]

    def _chunk(self, rows: list[int], view: int) -> Tensor:
        pixels = self._views.pixels(rows, view)
        for stamped, stamp in self._poisons:
            places = [place for place, row in enumerate(rows) if row in stamped]
            if places:
                pixels[places] = stamp(pixels[places])
        return self._frozen.of_pictures(pixels)


@attrs.frozen(eq=False)
class Group:
    """Tensors that share a peak learning rate."""

    tensors: list[Tensor]
    peak: float


def fit(
    groups: Sequence[Group],
    loss_of: Callable[[list[int], int], Tensor],
    n: int,
    options: LearnerOptions,
    seed: int,
    *,
    after_step: Callable[[int], None] = lambda epoch: None,
    progress: Progress = lambda fraction, what: None,
) -> list[float]:
    """SGD with momentum over `n` pictures for `options.epochs`, the rate set once an epoch; mean loss by
    epoch.

    `loss_of(rows, epoch)` is the mean loss of a batch; `after_step(epoch)` runs after each update. Source:
    CoOp and Dassl, see `rate_at`.
    """
    assert options.epochs is not None
    optimiser = torch.optim.SGD(
        [{"params": group.tensors, "lr": group.peak} for group in groups],
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    history = []
    for epoch in range(options.epochs):
        for group, settings in zip(groups, optimiser.param_groups):
            settings["lr"] = rate_at(epoch, options, peak=group.peak)
        total, seen = 0.0, 0
        for rows in batches(n, options, seed, "order", epoch):
            loss = loss_of(rows, epoch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            after_step(epoch)
            total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
        history.append(total / seen)
        progress(
            (epoch + 1) / options.epochs, f"epoch {epoch + 1} of {options.epochs}, loss {history[-1]:.3f}"
        )
    return history


def batches(n: int, options: LearnerOptions, seed: int, *purpose: object) -> Iterator[list[int]]:
    """The pictures of one epoch in random order, fixed by the seed and the purpose.

    A last batch that is not full is dropped, as Dassl's training loader does, unless it is the only one.
    """
    assert options.batch is not None
    generator = torch.Generator().manual_seed(derived_seed(seed, *purpose))
    order = torch.randperm(n, generator=generator)
    full = len(order) // options.batch
    chunks = order.split(options.batch)
    for chunk in chunks[: full or 1]:
        yield chunk.tolist()
