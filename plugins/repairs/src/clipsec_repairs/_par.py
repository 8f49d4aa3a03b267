"""Perturb and Recover."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from clipsec.data import to_unit
from clipsec.protocols import Context, Need
from clipsec_repairs._losses import par_loss
from clipsec_repairs._options import ParOptions
from clipsec_repairs._pairs import Towers, lightly
from clipsec_repairs._training import deliver, training, update


class Par:
    """PAR (Singh et al., arXiv 2412.00727): features are pushed away from where the poisoned model has them,
    while clean pairs are held together. It knows nothing of the trigger and needs no finding."""

    summary: ClassVar[str] = "pushes features away from the poisoned ones while clean pairs hold together"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    needs_finding: ClassVar[bool] = False
    options: ClassVar[type] = ParOptions
    references: ClassVar[tuple[str, ...]] = ("Singh et al., Perturb and Recover, arXiv 2412.00727",)
    # It is told nothing of the trigger, so half of it may be left.
    conformance: ClassVar[Mapping[str, Any]] = {
        "repairs": "textual",
        "success": 0.5,
        "options": {"steps": 60, "batch": 32, "learning_rate": 2e-3},
    }

    def repair(self, context: Context) -> Path:
        """Train, and write the model as its library lays it out; returns the folder.

        Raises `NotApplicableError` without an image tower or clean pairs, `DataError`,
        `UnsupportedModelError` or `StoreError`.
        """
        options: ParOptions = context.options
        towers, pairs = Towers.of(context)
        poisoned, _ = Towers.of(context)
        draws, views = context.generator("pairs"), context.generator("augmentation")
        with training(towers.weights(), options.learning_rate, options.weight_decay) as optimiser:
            batches = pairs.batches(options.batch, draws)
            for step in range(options.steps):
                rows, captions = next(batches)
                pixels = lightly(to_unit(pairs.pixels[rows]), views)
                with torch.no_grad():
                    before = poisoned.images(rows, pixels), poisoned.texts(captions)
                loss = par_loss(
                    towers.images(rows, pixels),
                    towers.texts(captions),
                    before,
                    pairs.groups[rows],
                    towers.scale,
                    options.tau,
                )
                update(optimiser, loss, step, options.steps, options.learning_rate)
                context.progress((step + 1) / options.steps, "perturbing and recovering")
        return deliver(context, towers.model)
