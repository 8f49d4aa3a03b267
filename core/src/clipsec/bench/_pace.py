"""How long units take, and so how long the rest will."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean


class Pace:
    """Mean seconds by kind of unit, such as ("model", "badclip"); a kind not seen yet is taken for the mean
    of those that share its first word."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, kind: tuple[str, str], seconds: float) -> None:
        """A unit took so long."""
        self._seconds[kind].append(seconds)

    def left(self, kinds: Iterable[tuple[str, str]]) -> float | None:
        """Seconds that units of these kinds will take; None before anything is known about one of them."""
        total = 0.0
        for kind in kinds:
            known = self._seconds.get(kind) or [
                seconds for other, some in self._seconds.items() if other[0] == kind[0] for seconds in some
            ]
            if not known:
                return None
            total += mean(known)
        return total
