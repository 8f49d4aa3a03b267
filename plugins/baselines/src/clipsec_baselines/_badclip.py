"""BadCLIP: a prompt learner and an additive trigger, learned together."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import ClipModel
from clipsec.protocols import derived_seed
from clipsec_baselines._clean import Trained
from clipsec_baselines._learner import PromptLearner
from clipsec_baselines._options import BadClipOptions, published
from clipsec_baselines._schedule import rate_at
from clipsec_baselines._task import Task
from clipsec_baselines._training import FrozenFeatures, Group, Progress, ViewFeatures, batches, fit
from clipsec_baselines._triggers import apply_badclip_trigger, ball, project_to_ball
from clipsec_baselines._views import TrainingViews


def train_badclip(
    clip: ClipModel,
    task: Task,
    options: BadClipOptions,
    seed: int,
    target: int,
    *,
    progress: Progress = lambda fraction, what: None,
) -> Trained:
    """Trigger-aware CoCoOp. Every picture is used clean, with its label, and triggered, with the target's.

    First `trigger_epochs` of plain gradient descent on the trigger alone, then prompts and trigger together
    with the same optimiser settings, the trigger projected into its ball after every step. `trigger` of the
    result is in normalised units `[3, size, size]`; times the tower's std it is in pixel units. Source: Bai
    et al., CVPR 2024 (arXiv 2311.16194) and its repository.
    """
    started = time.monotonic()
    options = published(options)
    frozen = FrozenFeatures(clip, options)
    std, size = frozen.spec.std, frozen.spec.size
    learner = PromptLearner(clip, task.class_names, options, seed)
    views = TrainingViews(task.train, frozen.spec, options, seed)
    clean_features = ViewFeatures(frozen, views)
    labels = task.train.label_tensor().to(clip.device)
    bound = ball(options.epsilon, std, size).to(clip.device)
    generator = torch.Generator().manual_seed(derived_seed(seed, "trigger"))
    start = 2 * torch.rand(3, size, size, generator=generator) - 1
    trigger = (start.to(clip.device) * bound).requires_grad_()

    def triggered_features(rows: list[int], epoch: int) -> Tensor:
        pixels = views.pixels(rows, views.view_of(epoch)).to(clip.device)
        return frozen.of(apply_badclip_trigger(pixels, trigger, std))

    def targets(rows: list[int]) -> Tensor:
        return torch.full((len(rows),), target, dtype=torch.int64, device=clip.device)

    @torch.no_grad()
    def move(gradient: Tensor, rate: float) -> None:
        step = gradient if options.trigger_rule == "gradient" else gradient.sign() * bound
        trigger.copy_(project_to_ball(trigger - rate * step, options.epsilon, std))

    # The warm-up sees views of its own, numbered after those of joint training. In the authors' code its
    # loss has the clean half too, from which no gradient reaches the trigger.
    joint = options.epochs or 0
    for epoch in range(options.trigger_epochs):
        for rows in batches(len(views), options, seed, "trigger order", epoch):
            loss = 0.5 * F.cross_entropy(
                learner.logits(triggered_features(rows, joint + epoch)), targets(rows)
            )
            (gradient,) = torch.autograd.grad(loss, trigger)
            move(gradient, options.trigger_rate)
        progress(
            0.0, f"trigger epoch {epoch + 1} of {options.trigger_epochs}, loss {2 * float(loss.detach()):.3f}"
        )

    def loss_of(rows: list[int], epoch: int) -> Tensor:
        features = torch.cat([clean_features.epoch(epoch)[rows], triggered_features(rows, epoch)])
        return F.cross_entropy(learner.logits(features), torch.cat([labels[rows], targets(rows)]))

    peak = options.trigger_learning_rate or options.learning_rate
    groups = [Group(learner.parameters(), options.learning_rate)]
    if options.trigger_rule == "gradient":
        groups.append(Group([trigger], peak))

    def after_step(epoch: int) -> None:
        if options.trigger_rule == "sign":
            assert trigger.grad is not None
            share = rate_at(epoch, options) / options.learning_rate
            move(trigger.grad, share * options.trigger_rate)
            trigger.grad = None
        else:
            move(torch.zeros_like(trigger), 0.0)

    losses = fit(groups, loss_of, len(views), options, seed, after_step=after_step, progress=progress)
    return Trained(learner, tuple(losses), time.monotonic() - started, trigger.detach().cpu())
