"""Pools of unlabelled pictures, as an auditor brings them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import attrs
import torch
from torch import Tensor

from clipsec.data._pictures import file_digest, find_pictures, read_picture, spec_digest
from clipsec.errors import DataError, EmptyPoolError
from clipsec.models import ImageSpec


@attrs.define(eq=False, slots=False)
class ImagePool:
    """Unlabelled pictures in a fixed order, identified by content.

    Unreadable files are left out and listed in `unreadable`; a pool with more of them than `TOLERATED` is
    refused, since it is probably not what the user meant.
    """

    paths: tuple[Path, ...]
    name: str = "pool"
    unreadable: tuple[str, ...] = ()
    _pixels: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    TOLERATED = 0.1

    @classmethod
    def from_folder(cls, folder: Path | str, *, limit: int | None = None, seed: int = 0) -> ImagePool:
        """The pictures below a folder, at most `limit` of them drawn at random by `seed`.

        Raises `EmptyPoolError` when there is none, `DataError` when the folder does not exist.
        """
        folder = Path(folder)
        paths = find_pictures(folder)
        if not paths:
            raise EmptyPoolError(
                f"there is no picture below {folder}",
                remedy="Bring a pool of a few hundred natural pictures (JPEG, PNG, WebP or BMP).",
            )
        if limit is not None and limit < 1:
            raise EmptyPoolError(f"a pool of {limit} pictures is empty", remedy="Ask for at least one.")
        if limit is not None and limit < len(paths):
            order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
            paths = [paths[i] for i in sorted(order[:limit].tolist())]
        return cls(tuple(paths), name=folder.name)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def file_digests(self) -> tuple[str, ...]:
        """sha256 of each picture file, in order."""
        return tuple(file_digest(path) for path in self.paths)

    @cached_property
    def digest(self) -> str:
        """Digest of the pictures' bytes and order; names and paths do not enter."""
        return hashlib.sha256("".join(self.file_digests).encode()).hexdigest()

    def pixels(self, spec: ImageSpec) -> Tensor:
        """All readable pictures through the evaluation transform: uint8 `[n, 3, size, size]`, kept.

        Raises `EmptyPoolError` when nothing is readable, `DataError` when too many files are not.
        """
        key = spec_digest(spec)
        if key not in self._pixels:
            self._read(spec, key)
        return self._pixels[key]

    def row_keys(self, spec: ImageSpec) -> list[bytes]:
        """One content key for each row of `pixels`, for the feature cache."""
        self.pixels(spec)
        key = spec_digest(spec)
        return [
            hashlib.blake2b(f"{key}/{digest}".encode(), digest_size=16).digest()
            for digest in self.file_digests
        ]

    def _read(self, spec: ImageSpec, key: str) -> None:
        rows: list[Tensor] = []
        kept: list[Path] = []
        unreadable: list[str] = []
        for path in self.paths:
            try:
                rows.append(read_picture(path, spec))
                kept.append(path)
            except DataError as error:
                unreadable.append(f"{path.name}: {error.message}")
        if not rows:
            raise EmptyPoolError(
                f"none of the {len(self.paths)} pictures of {self.name} can be decoded",
                remedy="Bring pictures as JPEG, PNG, WebP or BMP.",
            )
        if len(unreadable) > self.TOLERATED * len(self.paths):
            raise DataError(
                f"{len(unreadable)} of {len(self.paths)} pictures of {self.name} cannot be decoded, "
                f"the first is {unreadable[0]}",
                remedy="Remove them, or bring another pool.",
            )
        if unreadable:
            self.paths, self.unreadable = tuple(kept), tuple(unreadable)
            self.__dict__.pop("file_digests", None)
            self.__dict__.pop("digest", None)
        self._pixels[key] = torch.stack(rows)
