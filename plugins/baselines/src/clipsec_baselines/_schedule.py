"""The learning rate of CoOp's code base: a constant warm-up, then a cosine."""

from __future__ import annotations

import math

from clipsec_baselines._options import LearnerOptions


def rate_at(epoch: int, options: LearnerOptions, *, peak: float | None = None) -> float:
    """Learning rate during `epoch` (from 0).

    `warmup_rate` for the first `warmup_epochs` w, then `peak * (1 + cos(pi (epoch - w) / epochs)) / 2`: the
    cosine counts from the end of the warm-up but has the length of the whole training, so it does not reach
    zero. Source: Dassl, ConstantWarmupScheduler around CosineAnnealingLR with WARMUP_RECOUNT. `peak` defaults
    to `options.learning_rate`.
    """
    if options.epochs is None:
        raise ValueError("epochs is not set; call published(options) first")
    if epoch < options.warmup_epochs:
        return options.warmup_rate
    top = options.learning_rate if peak is None else peak
    return top * (1 + math.cos(math.pi * (epoch - options.warmup_epochs) / options.epochs)) / 2
