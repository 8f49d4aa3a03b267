"""Debugging aid: notices that somebody changed a tower, which makes every later result worthless."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.scheduler._requests import Tower


class Canaries:
    """For each tower and shape the first physical batch and its output, computed again before every later
    call."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, torch.Size, bool], tuple[Tensor, tuple[Tensor, ...], Tensor]] = {}
        self._suspects: dict[Hashable, None] = {}

    def ran(self, tag: Hashable) -> None:
        """Note that a problem's code has run since the last check."""
        self._suspects[tag] = None

    def remember(self, tower: Tower, x: Tensor, aux: tuple[Tensor, ...], y: Tensor) -> None:
        """Keep the first batch of its kind."""
        kind = (tower.key, x.shape, x.requires_grad)
        if kind not in self._first:
            self._first[kind] = (x.detach().clone(), tuple(a.clone() for a in aux), y.detach().clone())

    def check(self, tower: Tower) -> None:
        """Raise ContractError if a remembered batch of this tower now gives another output."""
        for (key, _, with_gradient), (x, aux, y) in self._first.items():
            if key == tower.key:
                with torch.set_grad_enabled(with_gradient):
                    again = tower.fn(x.clone().requires_grad_(with_gradient), *aux).detach()
                if again.shape != y.shape or not torch.equal(_bits(again), _bits(y)):
                    raise self._changed(tower)
        self._suspects.clear()

    def _changed(self, tower: Tower) -> ContractError:
        ran = ", ".join(map(repr, self._suspects)) or "none"
        return ContractError(
            f"the tower {tower.label!r} gives other features than before; problems that ran since: {ran}",
            remedy="Never change a tower: copy its weights, and make a tower with a key of its own.",
        )


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)
