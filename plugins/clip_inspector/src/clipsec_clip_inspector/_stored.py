"""The search of one class as a unit of work: stored at each stopping point, loaded on resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import Tensor

from clipsec.protocols import Context
from clipsec.scheduler import Problem
from clipsec.store import UnitStore, content_key
from clipsec_clip_inspector._inversion import Search, Step, evaluate
from clipsec_clip_inspector._plan import Plan, Side


@attrs.frozen(eq=False)
class Found:
    """What a finished search found."""

    delta: Tensor
    """`[3, H, W]` in pixel units."""
    losses: list[float]
    """Mean margin of each batch, before its update."""
    margins: Tensor
    """Of all pictures with the final delta, on each side: `[sides, n]`."""


class StoredSearch:
    """The search of one class on the first of some sides, evaluated on all of them.

    What was seen at each stopping point is stored under a name of its own, the final delta with its margins
    under another. A search whose early part is stored and whose rest is wanted runs from its start again:
    that costs the few updates of a rung, and nothing of the optimiser has to be kept.
    """

    def __init__(
        self,
        store: UnitStore,
        name: str,
        plan: Plan,
        sides: Sequence[Side],
        target: int,
        advance: Callable[[int], None],
    ) -> None:
        self._store, self._name, self._plan, self._sides, self._target = store, name, plan, sides, target
        self._advance, self._told = advance, 0
        self._search = Search(
            sides[0].search_tower,
            sides[0].search_head,
            plan.pixels,
            target,
            batches=plan.batches,
            epsilon=plan.options.epsilon,
            learning_rate=plan.options.learning_rate,
        )

    def until(self, steps: int) -> Problem:
        """What the first `steps` batches showed: a list of `Step`."""
        name = f"{self._name}-after-{steps:04d}"
        unit = self._store.load(self._name) or self._store.load(name)
        if unit is not None:
            self._reached(steps)
            return _read_steps(unit.data)[:steps]
        yield from self._search.go_on(steps, self._stepped)
        self._store.save(name, self._data(), {})
        return list(self._search.steps)

    def finish(self) -> Problem:
        """A `Found`, after all batches."""
        unit = self._store.load(self._name)
        if unit is not None:
            self._reached(len(self._plan.batches))
            losses = [step.loss for step in _read_steps(unit.data)]
            return Found(unit.tensors["delta"], losses, unit.tensors["margins"])
        yield from self._search.go_on(len(self._plan.batches), self._stepped)
        sides = [(side.tower, side.head) for side in self._sides]
        margin: Tensor = yield from evaluate(sides, self._plan.pixels, self._search.delta, self._target)
        delta = self._search.delta
        self._store.save(self._name, self._data(), {"delta": delta, "margins": margin})
        return Found(delta, self._search.trajectory, margin)

    def _data(self) -> dict[str, Any]:
        return {
            "class": self._plan.class_names[self._target],
            "losses": self._search.trajectory,
            "won": ["".join("01"[won] for won in step.won) for step in self._search.steps],
        }

    def _stepped(self) -> None:
        # Updates that are made a second time, after a resume, were told before.
        self._reached(max(self._told, len(self._search.steps)))

    def _reached(self, steps: int) -> None:
        self._advance(max(0, steps - self._told))
        self._told = max(self._told, steps)


def _read_steps(data: dict[str, Any]) -> list[Step]:
    return [
        Step(loss, tuple(letter == "1" for letter in won))
        for loss, won in zip(data["losses"], data["won"], strict=True)
    ]


def suspect_search(context: Context, plan: Plan, target: int, advance: Callable[[int], None]) -> StoredSearch:
    """One class of the suspect; its trigger is evaluated on the suspect and on the base."""
    sides = [plan.suspect] if plan.null is None else [plan.suspect, plan.null]
    return StoredSearch(context.units, f"class-{target:04d}", plan, sides, target, advance)


def null_search(context: Context, plan: Plan, target: int, advance: Callable[[int], None]) -> StoredSearch:
    """One class of the null, shared by content with every audit that compares with it."""
    assert plan.null is not None
    name = f"clip-inspector-null-{content_key(null=plan.null_key, target=target)}"
    return StoredSearch(context.shared, name, plan, [plan.null], target, advance)
