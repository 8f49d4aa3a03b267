"""How many rows a physical batch has: fixed within a run, halved when memory is short, never grown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch

from clipsec.store import atomic_write

CPU_MICRO_BATCH = 32
"""Two AMX cores reach their best rate between 8 and 16 pictures of ViT-B/32; more costs only memory, but
stacks more single-row problems and text rows, whose best rate is at 32."""


class BatchKey(NamedTuple):
    """What decides whether rows can share a physical batch."""

    tower: str
    """The tower's key."""
    op: str
    """`forward` (no gradient) or `grad`."""
    shape: tuple[int, ...]
    """Shape of one row."""
    dtype: torch.dtype
    device: torch.device
    aux: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    """Shape and dtype of one row of each aux tensor."""
    declared: int | None = None
    """The micro-batch that the request or the tower asked for."""

    def memo_name(self) -> str:
        """The name under which the safe micro-batch is remembered; what was asked for is no part of it."""
        aux = ",".join(f"{_dims(shape)}:{dtype}" for shape, dtype in self.aux)
        return f"{self.tower}|{self.op}|{_dims(self.shape)}:{self.dtype}|{aux}|{_device_name(self.device)}"


def default_micro_batch(device: torch.device) -> int:
    """The physical batch when nobody says otherwise; on a CUDA device only if it could not be measured."""
    return CPU_MICRO_BATCH


class SafeBatch:
    """Micro-batches by `BatchKey`: powers of two, halved on out of memory, never grown.

    What was learnt is written to `memo_path` (JSON, replaced atomically) at once, so that a run that was
    killed and goes on uses the same physical batches, on which bit-equality rests. An unreadable memo
    counts as empty. Delete the file to forget.
    """

    def __init__(self, start: int | None = None, memo_path: str | os.PathLike[str] | None = None) -> None:
        if start is not None:
            check_power_of_two(start)
        self._start = start
        self._path = None if memo_path is None else Path(memo_path)
        self._limits: dict[str, int] = {} if self._path is None else _read_memo(self._path)
        self._known: dict[BatchKey, int] = {}

    def get(self, key: BatchKey) -> int:
        """The micro-batch to use now."""
        known = self._known.get(key)
        if known is None:
            wanted = key.declared or self._start or default_micro_batch(key.device)
            known = self._known[key] = min(wanted, self._limits.get(key.memo_name(), wanted))
        return known

    def undecided(self, key: BatchKey) -> bool:
        """Whether nobody has said, measured or remembered how many rows to take."""
        return key.declared is None and self._start is None and key.memo_name() not in self._limits

    def settle(self, key: BatchKey, micro_batch: int) -> None:
        """Fix a measured micro-batch for the run, and remember it."""
        check_power_of_two(micro_batch)
        self._limits[key.memo_name()] = micro_batch
        self._known[key] = micro_batch
        self._write()

    def shrink(self, key: BatchKey) -> int | None:
        """Halve it and return the new micro-batch; None when it is already a single row."""
        current = self.get(key)
        if current == 1:
            return None
        name = key.memo_name()
        self._limits[name] = current // 2
        self._known = {other: size for other, size in self._known.items() if other.memo_name() != name}
        self._write()
        return self.get(key)

    def _write(self) -> None:
        if self._path is None:
            return
        text = json.dumps({"version": 1, "micro_batches": self._limits}, indent=1, sort_keys=True)
        atomic_write(self._path, text.encode())


def is_power_of_two(value: object) -> bool:
    """Whether `value` is 1, 2, 4, ..."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and not value & (value - 1)


def check_power_of_two(value: object) -> None:
    """Raise ValueError unless `value` is 1, 2, 4, ..."""
    if not is_power_of_two(value):
        raise ValueError(f"a micro-batch is a power of two, not {value!r}")


def _read_memo(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = dict(content["micro_batches"]) if content["version"] == 1 else {}
        for value in entries.values():
            check_power_of_two(value)
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return entries


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
