"""The disk tier of the feature cache: shards of rows as safetensors files, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from clipsec.errors import StoreError
from clipsec.store import atomic_write

_LOG = logging.getLogger("clipsec.scheduler")

PREFIX_BYTES = 16
"""Keys begin with what many rows share (tower, shape, micro-batch); each such prefix has its own folder, so
that only the shards of towers in use are ever listed."""

_SUFFIX = ".safetensors"
_UNREADABLE = (OSError, SafetensorError, KeyError, ValueError, RuntimeError)


class Shards:
    """Rows by key in a folder that any number of processes may share.

    A shard holds the rows of one prefix: `keys` uint8 `[n, k]`, `rows` float32 `[n, ...]`, and a SHA-256 of
    both, verified at each read. A shard that is truncated or corrupt counts as absent and is removed; its
    rows are computed and written again. The folder may be deleted at any time.
    """

    def __init__(self, folder: Path, shard_bytes: int, disk_bytes: int | None, seconds: float = 10.0) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._disk_bytes = disk_bytes
        self._seconds = seconds
        self._index: dict[bytes, dict[bytes, Path]] = {}
        self._unwritten: dict[bytes, Tensor] = {}
        self._since = 0.0
        self.unwritten_bytes = 0
        self._writable = True

    def __contains__(self, key: bytes) -> bool:
        return key in self._unwritten or key in self._shards_of(key)

    def read(self, key: bytes) -> dict[bytes, Tensor]:
        """The rows of the shard that holds the key, in the order of writing; empty if there is none."""
        if key in self._unwritten:
            return {key: self._unwritten[key]}
        path = self._shards_of(key).get(key)
        if path is None:
            return {}
        try:
            rows = _decode(path.read_bytes())
        except _UNREADABLE as error:
            self._lose(path, error)
            return {}
        return rows if key in rows else {}

    def add(self, key: bytes, row: Tensor) -> None:
        """Write the row with the next shard."""
        if not self._writable or key in self:
            return
        if not self._unwritten:
            self._since = time.monotonic()
        self._unwritten[key] = row
        self.unwritten_bytes += row.nbytes
        if self.unwritten_bytes >= self._shard_bytes:
            self.write()

    def write_if_old(self) -> None:
        """Write what has been waiting for some seconds, so that a kill costs no more than those."""
        if self._unwritten and time.monotonic() - self._since > self._seconds:
            self.write()

    def write(self) -> None:
        """Write all rows that are not on disk yet. A full disk ends writing, not the run."""
        groups: dict[tuple[bytes, tuple[int, ...]], dict[bytes, Tensor]] = {}
        for key, row in self._unwritten.items():
            groups.setdefault((key[:PREFIX_BYTES], tuple(row.shape)), {})[key] = row
        self._unwritten = {}
        self.unwritten_bytes = 0
        for (prefix, _), rows in groups.items():
            name = hashlib.sha256(b"".join(rows)).hexdigest()[:32] + _SUFFIX
            path = self._folder / prefix.hex() / name
            try:
                atomic_write(path, _encode(rows))
            except StoreError as error:
                self._writable = False
                _LOG.warning("features are no longer written to %s: %s", self._folder, error)
                return
            self._shards_of(prefix).update(dict.fromkeys(rows, path))
        if self._disk_bytes is not None and groups:
            self._prune(self._disk_bytes)

    def _shards_of(self, key: bytes) -> dict[bytes, Path]:
        prefix = key[:PREFIX_BYTES]
        known = self._index.get(prefix)
        if known is None:
            known = self._index[prefix] = {}
            for path in sorted((self._folder / prefix.hex()).glob(f"*{_SUFFIX}")):
                try:
                    keys = _decode_keys(path)
                except _UNREADABLE as error:
                    self._lose(path, error)
                else:
                    known.update(dict.fromkeys(keys, path))
        return known

    def _lose(self, path: Path, error: Exception) -> None:
        if not isinstance(error, FileNotFoundError):
            _LOG.warning("the feature shard %s is unreadable and will be written again: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
        for known in self._index.values():
            for key in [key for key, place in known.items() if place == path]:
                del known[key]

    def _prune(self, disk_bytes: int) -> None:
        shards = sorted(self._stat_all())
        excess = sum(size for _, size, _ in shards) - disk_bytes
        for _, size, path in shards:
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            self._lose(path, FileNotFoundError())
            excess -= size

    def _stat_all(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._folder.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def _encode(rows: dict[bytes, Tensor]) -> bytes:
    keys = _bytes_tensor(b"".join(rows)).reshape(len(rows), -1)
    block = torch.stack(list(rows.values()))
    return save({"keys": keys, "rows": block, "digest": _bytes_tensor(_digest(keys, block))})


def _decode(data: bytes) -> dict[bytes, Tensor]:
    tensors = load(data)
    keys, block = _checked_keys(tensors["keys"]), tensors["rows"]
    if len(keys) != len(block) or bytes(tensors["digest"].numpy()) != _digest(tensors["keys"], block):
        raise ValueError("the content does not match its digest")
    return dict(zip(keys, block))


def _decode_keys(path: Path) -> list[bytes]:
    with safe_open(path, framework="pt") as file:
        return _checked_keys(file.get_tensor("keys"))


def _checked_keys(keys: Tensor) -> list[bytes]:
    if keys.dtype != torch.uint8 or keys.dim() != 2:
        raise ValueError(f"keys of shape {tuple(keys.shape)} and {keys.dtype}")
    return [bytes(key) for key in keys.numpy()]


def _digest(keys: Tensor, block: Tensor) -> bytes:
    digest = hashlib.sha256(str((block.dtype, tuple(block.shape))).encode())
    digest.update(keys.numpy().tobytes())
    digest.update(block.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
