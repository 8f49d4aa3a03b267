"""Training pictures as a prompt learner sees them: augmented views, each fixed by the seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as transforms

from clipsec.data import LabelledSet, open_picture, to_unit
from clipsec.models import ImageSpec
from clipsec.protocols import derived_seed
from clipsec_baselines._options import LearnerOptions

_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
"""torchvision's and Dassl's defaults."""


def augment(picture: Image.Image, spec: ImageSpec, seed: int) -> Tensor:
    """Random resized crop and horizontal flip as CoOp trains with: uint8 `[3, size, size]`, fixed by
    `seed`."""
    # torchvision draws the crop from the global generator; the caller's must not move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        box = RandomResizedCrop.get_params(picture, list(_CROP_SCALE), list(_CROP_RATIO))
        flip = bool(torch.rand(()) < 0.5)
    cropped = transforms.resized_crop(
        picture, *box, [spec.size, spec.size], InterpolationMode(spec.interpolation)
    )
    if flip:
        cropped = transforms.hflip(cropped)
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous()


class TrainingViews:
    """The views of a few-shot training set.

    View v of picture i depends on the seed, i and v alone, never on the order of calls.
    """

    def __init__(self, labelled: LabelledSet, spec: ImageSpec, options: LearnerOptions, seed: int) -> None:
        self._labelled = labelled
        self._spec = spec
        self._augment = options.augment
        self._cycle = options.views
        self._seed = seed
        # Pictures of a few-shot set fit into memory decoded; decoding again each epoch was most of the cost.
        self._open = lru_cache(maxsize=4096)(open_picture)

    def __len__(self) -> int:
        return len(self._labelled)

    def view_of(self, epoch: int) -> int:
        """Which view an epoch sees."""
        if not self._augment:
            return 0
        return epoch if self._cycle is None else epoch % self._cycle

    def pixels(self, rows: Sequence[int], view: int) -> Tensor:
        """Pixels in [0, 1], float32 `[len(rows), 3, size, size]`."""
        if not self._augment:
            return to_unit(self._labelled.pixels(self._spec)[list(rows)])
        return to_unit(torch.stack([self._view(row, view) for row in rows]))

    def _view(self, row: int, view: int) -> Tensor:
        picture = self._open(self._labelled.paths[row])
        return augment(picture, self._spec, derived_seed(self._seed, "view", row, view))
