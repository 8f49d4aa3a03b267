"""CleanCLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.protocols import Context, Need
from clipsec_repairs._losses import cleanclip_loss
from clipsec_repairs._options import CleanClipOptions
from clipsec_repairs._pairs import Towers
from clipsec_repairs._training import deliver, training, update

CHANGED = 0.1
"""Share of a caption's words that each change concerns, as in EDA (Wei & Zou, 2019)."""


class CleanClip:
    """CleanCLIP (Bansal et al., ICCV 2023): clean pairs are held together, and so are a picture and its
    augmented view, a caption and its changed one; what a trigger tied together loosens. It needs no
    finding."""

    summary: ClassVar[str] = "fine-tunes on clean pairs and on views of each side alone"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    needs_finding: ClassVar[bool] = False
    options: ClassVar[type] = CleanClipOptions
    references: ClassVar[tuple[str, ...]] = ("Bansal et al., CleanCLIP, ICCV 2023",)
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
        options: CleanClipOptions = context.options
        towers, pairs = Towers.of(context)
        draws, views = context.generator("pairs"), context.generator("augmentation")
        with training(towers.weights(), options.learning_rate, options.weight_decay) as optimiser:
            batches = pairs.batches(options.batch, draws)
            for step in range(options.steps):
                rows, captions = next(batches)
                images = towers.images(rows, to_unit(pairs.pixels[rows]))
                others = images
                if towers.frozen is None:
                    others = towers.images(rows, to_unit(augmented(pairs.pixels[rows], views)))
                loss = cleanclip_loss(
                    images,
                    towers.texts(captions),
                    (others, towers.texts([reworded(text, views) for text in captions])),
                    pairs.groups[rows],
                    towers.scale,
                    options.weight,
                )
                update(optimiser, loss, step, options.steps, options.learning_rate)
                context.progress((step + 1) / options.steps, "fine-tuning on clean pairs")
        return deliver(context, towers.model)


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """torchvision's AutoAugment (its ImageNet policy) of each of uint8 pictures `[n, 3, size, size]`."""
    from torchvision.transforms import AutoAugment

    change = AutoAugment()
    # It draws from the global generator, which is given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        return torch.stack([change(each) for each in pixels])


def reworded(text: str, generator: torch.Generator) -> str:
    """A caption with some words exchanged and some left out: EDA (Wei & Zou 2019) without its two changes
    that need a dictionary of synonyms."""
    words = text.split()
    for _ in range(max(1, round(CHANGED * len(words))) if len(words) > 1 else 0):
        one, other = torch.randint(len(words), (2,), generator=generator).tolist()
        words[one], words[other] = words[other], words[one]
    return " ".join(_thinned(words, generator))


def _thinned(words: Sequence[str], generator: torch.Generator) -> list[str]:
    kept = (torch.rand(len(words), generator=generator) >= CHANGED).tolist()
    left = [word for word, stays in zip(words, kept) if stays]
    return left or list(words[:1])
