"""SIBA's search for a sparse trigger on a clean surrogate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import to_unit
from clipsec.errors import DataError
from clipsec.models import ClipModel
from clipsec.protocols import derived_seed
from clipsec.triggers import add
from clipsec_baselines._clean import train_prompts
from clipsec_baselines._options import SibaOptions
from clipsec_baselines._task import Task
from clipsec_baselines._training import FrozenFeatures, Progress
from clipsec_baselines._triggers import sparse_mask, sparse_step


def find_sparse_trigger(
    clip: ClipModel,
    task: Task,
    options: SibaOptions,
    seed: int,
    target: int,
    *,
    progress: Progress = lambda fraction, what: None,
) -> Tensor:
    """A delta `[3, size, size]` in pixel units, non-zero in `options.pixels` places, at most epsilon there.

    Surrogate: a clean prompt learner of the same task and seed. For `search_epochs` over the training
    pictures of other classes (evaluation crop): every `mask_every` epochs the places are chosen anew
    (`sparse_mask`), then one `sparse_step` a batch against the loss of the target, each picture's loss
    clipped at `beta`. The epoch with the lowest mean loss is kept. Source: Gao et al., TIFS 2024.
    """
    surrogate = train_prompts(
        clip, task, options, seed, progress=lambda done, what: progress(done / 3, f"surrogate, {what}")
    ).learner
    frozen = FrozenFeatures(clip, options)
    others = [row for row, label in enumerate(task.train.labels) if label != target]
    if not others:
        raise DataError(
            "every training picture is of the target class", remedy="Bring pictures of the other classes."
        )
    pixels = to_unit(task.train.pixels(frozen.spec)[others]).to(clip.device)
    delta = torch.zeros_like(pixels[0])
    mask = torch.zeros_like(delta[:1])
    best, lowest = delta, float("inf")

    def gradient_of(rows: Tensor) -> tuple[Tensor, float]:
        stamped = add(rows, delta).requires_grad_()
        losses = F.cross_entropy(
            surrogate.logits(frozen.of(stamped)),
            torch.full((len(rows),), target, device=rows.device),
            reduction="none",
        ).clamp(max=options.beta)
        (gradient,) = torch.autograd.grad(losses.sum(), stamped)
        return gradient, float(losses.detach().sum())

    for epoch in range(options.search_epochs):
        generator = torch.Generator().manual_seed(derived_seed(seed, "search order", epoch))
        total = 0.0
        for position, rows in enumerate(
            torch.randperm(len(pixels), generator=generator).split(options.search_batch)
        ):
            if epoch % options.mask_every == 0 and position == 0:
                mask = sparse_mask(gradient_of(pixels[rows])[0], options.pixels)
                delta = delta * mask
            gradient, loss = gradient_of(pixels[rows])
            total += loss
            delta = sparse_step(delta, gradient.mean(dim=0), mask, options.epsilon, options.step)
        # The losses were seen on the way; what is kept is the trigger at the end of that epoch.
        if total / len(pixels) < lowest:
            lowest, best = total / len(pixels), delta
        done = (1 + 2 * (epoch + 1) / options.search_epochs) / 3
        progress(
            done, f"trigger epoch {epoch + 1} of {options.search_epochs}, loss {total / len(pixels):.3f}"
        )
    return best.detach().cpu()
