"""Features that were computed before: least recently used rows in memory, and shards on disk."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

DEFAULT_MEMORY_BYTES = 1 << 29
"""A row of ViT-B/32 takes 2 KB, so half a GB holds a quarter of a million."""


class FeatureCache:
    """Rows by content key, bounded in bytes; the least recently used go first."""

    def __init__(self, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self.size = 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Tensor | None:
        """The row, or None."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Tensor) -> None:
        """Remember a float32 row on the CPU. It must own its memory: a view would keep the whole batch
        alive."""
        if key in self._rows or row.nbytes > self.memory_bytes:
            return
        self._rows[key] = row
        self.size += row.nbytes
        while self.size > self.memory_bytes:
            self.size -= self._rows.popitem(last=False)[1].nbytes

    def flush(self) -> None:
        """Write what is not on disk yet."""
