"""Low-rank updates of a text tower's weights, merged into them at the end (Hu et al., LoRA)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipsec_baselines.text._options import LoraOptions
from clipsec_baselines.text._student import Student


class LowRank(nn.Module):
    """W -> W + scale up down, of rank `rank` at most; zero at the start (Hu et al., section 4.1).

    `up` is zero and `down` Gaussian with variance 1 / columns; the paper leaves the variance open.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """`[rows, columns]` -> the same shape."""
        return weight + self.scale * self.up @ self.down


@contextmanager
def low_rank(
    student: Student, options: LoraOptions, generator: torch.Generator
) -> Iterator[list[nn.Parameter]]:
    """Within it the student's layers have updates; yields their parameters. Afterwards the weights hold them,
    and the tower is laid out as it was."""
    layers = adapted(student, options.layers)
    scale = options.alpha / options.rank
    updates = [LowRank(layer.weight, options.rank, scale, generator) for layer in layers]
    for layer, update in zip(layers, updates, strict=True):
        parametrize.register_parametrization(layer, "weight", update)
    try:
        yield [parameter for update in updates for parameter in update.parameters()]
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def adapted(student: Student, layers: str) -> list[nn.Linear]:
    """The linear layers of the text tower's blocks (`all`), or its query and value projections
    (`attention`)."""
    trained = {id(parameter) for parameter in student.parameters()}
    named: Iterator[tuple[str, nn.Module]] = student.module.named_modules()
    return [
        layer
        for name, layer in named
        if isinstance(layer, nn.Linear)
        and id(layer.weight) in trained
        and (layers == "all" or name.endswith((".q_proj", ".v_proj")))
    ]
