"""The default engine: one suspect after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Generic, TypeVar

import attrs

from clipsec.errors import ClipsecError

Item = TypeVar("Item")
Value = TypeVar("Value")


@attrs.frozen
class Answer(Generic[Item, Value]):
    """What became of one item: a value or an expected error."""

    item: Item
    value: Value | None = None
    error: ClipsecError | None = None


class LocalEngine:
    """Maps a function over suspects, in order. An expected error stays with its item."""

    summary: ClassVar[str] = "one suspect after the other, in this process"
    api_version: ClassVar[str] = "1.0"

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Answer[Item, Value]]:
        """Yield an `Answer` for each item as soon as it is there."""
        for item in items:
            try:
                answer = Answer[Item, Value](item, value=function(item))
            except ClipsecError as error:
                answer = Answer[Item, Value](item, error=error)
            yield answer
