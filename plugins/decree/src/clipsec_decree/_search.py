"""One start as a scheduler problem: the search, and what its mask does to held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.errors import DetectionError
from clipsec.scheduler import Backward, Encode, Problem, Tower
from clipsec.triggers import cover
from clipsec_decree._objective import from_tanh, mask_size, similarity, to_tanh
from clipsec_decree._options import DecreeOptions
from clipsec_decree._schedule import advance, first_state, learning_rate

BETAS = (0.5, 0.9)
CHUNK = 128
"""Rows of one request: bounds memory, not results."""
_EDGE = 1e-3
"""The first mask and pattern stay this far from 0 and 1, where tanh lets no gradient through."""


@attrs.frozen(eq=False)
class Searched:
    """What a search left."""

    mask: Tensor
    """`[1, H, W]` in [0, 1]: the smallest that worked, else the last."""
    pattern: Tensor
    """`[3, H, W]` in [0, 1]."""
    works: bool
    """Whether any mask reached the similarity."""
    ended: bool
    """Whether the search stopped by itself, not for lack of updates."""
    history: tuple[tuple[float, float, float], ...]
    """Similarity, size and weight of each update."""


def search(
    tower: Tower,
    pixels: Tensor,
    batches: Sequence[Tensor],
    options: DecreeOptions,
    generator: torch.Generator,
    on_step: Callable[[int], None] = lambda updates: None,
) -> Problem:
    """Adam on the objective from a random mask and pattern; returns a `Searched`.

    `pixels` are uint8 `[n, 3, H, W]`, a batch is indices into them. What an update measures is the mask
    before it. Raises `DetectionError` when a similarity is not a number.
    """
    start = [torch.rand(channels, *pixels.shape[2:], generator=generator) for channels in (1, 3)]
    variables = [to_tanh(values * (1 - 2 * _EDGE) + _EDGE).requires_grad_() for values in start]
    optimiser = torch.optim.Adam(variables, lr=options.learning_rates[0], betas=BETAS)
    state, history = first_state(options), list[tuple[float, float, float]]()
    kept = [from_tanh(variable).detach() for variable in variables]
    for batch in batches:
        mask, pattern = (from_tanh(variable) for variable in variables)
        features = yield Encode(tower, cover(to_unit(pixels[batch]), pattern, mask), cache=False)
        alike, size, weight = similarity(features), mask_size(mask), state.weight
        history.append((float(alike.detach()), float(size.detach()), weight))
        if not torch.isfinite(alike):
            raise DetectionError(
                "the image tower gives features that are not numbers",
                remedy="Check the file of the model; clipsec doctor shows the machine's limits.",
            )
        state = advance(options, state, *history[-1][:2])
        if state.kept:
            kept = [mask.detach(), pattern.detach()]
        on_step(len(history))
        if state.stopped:
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(options, len(history) - 1)
        optimiser.zero_grad()
        yield Backward(weight * size - alike)
        optimiser.step()
    if state.best is None:
        kept = [from_tanh(variable).detach() for variable in variables]
    return Searched(*kept, works=state.best is not None, ended=state.stopped, history=tuple(history))


def stamped_features(tower: Tower, pixels: Tensor, mask: Tensor, pattern: Tensor) -> Problem:
    """Features `[n, E]` of stamped pictures."""
    parts = []
    for chunk in pixels.split(CHUNK):
        features = yield Encode(tower, cover(to_unit(chunk), pattern, mask), cache=False)
        parts.append(features)
    return torch.cat(parts)


def clean_features(tower: Tower, pixels: Tensor, row_keys: Sequence[bytes]) -> Problem:
    """Features `[n, E]` of pictures as they are; from the cache if they are there."""
    parts = []
    for begin in range(0, len(pixels), CHUNK):
        rows = slice(begin, begin + CHUNK)
        features = yield Encode(tower, to_unit(pixels[rows]), row_keys=row_keys[rows])
        parts.append(features)
    return torch.cat(parts)
