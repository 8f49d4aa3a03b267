"""Features that were computed before: least recently used rows in memory, and shards on disk."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from pathlib import Path

from torch import Tensor

from clipsec.scheduler._shards import Shards

DEFAULT_MEMORY_BYTES = 1 << 29
"""A row of ViT-B/32 takes 2 KB, so half a GB holds a quarter of a million."""

_SHARD_BYTES = 1 << 24
"""Large enough that 1 M rows of ViT-B/32 are 128 files, small enough to read one for the sake of a row."""


class FeatureCache:
    """Rows of features by content key: the least recently used in memory, optionally all of them on disk.

    Memory never exceeds `memory_bytes`, rows that wait to be written included; 0 turns the cache off.
    `folder` adds a disk tier that outlives the process and may be shared by several; beyond `disk_bytes`
    the oldest shards go. A row is on disk some ten seconds after it was computed, after `flush()`, and when
    the process ends in good order.
    """

    def __init__(
        self,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        *,
        folder: str | os.PathLike[str] | None = None,
        disk_bytes: int | None = None,
    ) -> None:
        if memory_bytes < 0 or (disk_bytes is not None and disk_bytes < 0):
            raise ValueError("a cache cannot hold fewer than 0 bytes")
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._held = 0
        self._room = memory_bytes
        self._shards: Shards | None = None
        if folder is not None and memory_bytes > 0:
            shard_bytes = min(_SHARD_BYTES, memory_bytes // 4)
            self._room = memory_bytes - shard_bytes
            self._shards = Shards(Path(folder), shard_bytes, disk_bytes)
            weakref.finalize(self, self._shards.write)

    def __len__(self) -> int:
        """How many rows are in memory."""
        return len(self._rows)

    @property
    def size(self) -> int:
        """Bytes in memory; a row that is both kept and waiting to be written counts twice."""
        return self._held + (self._shards.unwritten_bytes if self._shards is not None else 0)

    def get(self, key: bytes) -> Tensor | None:
        """The row (float32 on the CPU, not to be changed), or None."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
            return row
        if self._shards is None:
            return None
        # Rows that were computed together are mostly wanted together: keep what came with it, within reason.
        found = self._shards.read(key)
        row = found.pop(key, None)
        if row is None:
            return None
        room = self._room // 2
        for other, companion in found.items():
            room -= companion.nbytes
            if room < 0:
                break
            self._keep(other, companion.clone())
        row = row.clone()
        self._keep(key, row)
        return row

    def put(self, key: bytes, row: Tensor) -> None:
        """Remember a float32 row on the CPU. It must own its memory: a view would keep a whole batch."""
        if row.nbytes > self._room or key in self._rows:
            return
        self._keep(key, row)
        if self._shards is not None:
            self._shards.add(key, row)

    def clear(self) -> None:
        """Forget every row in memory. What is on disk stays."""
        self._rows.clear()
        self._held = 0

    def flush(self) -> None:
        """Write every row that is not on disk yet."""
        if self._shards is not None:
            self._shards.write()

    def tick(self) -> None:
        """Write what has been waiting for long; the scheduler calls it now and then."""
        if self._shards is not None:
            self._shards.write_if_old()

    def _keep(self, key: bytes, row: Tensor) -> None:
        if key in self._rows or row.nbytes > self._room:
            return
        self._rows[key] = row
        self._held += row.nbytes
        while self._held > self._room:
            self._held -= self._rows.popitem(last=False)[1].nbytes
