"""Text pools and class lists: one entry a line."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import attrs

from clipsec.errors import DataError, EmptyPoolError


def read_lines(path: Path | str) -> tuple[str, ...]:
    """The non-empty lines of a UTF-8 text file, without comments (`# ...` at the start of a line).

    Raises `DataError` when it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Name a UTF-8 text file.") from error
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


@attrs.define(eq=False, slots=False)
class TextPool:
    """Captions in a fixed order, identified by content."""

    texts: tuple[str, ...]
    name: str = "texts"

    @classmethod
    def from_file(cls, path: Path | str) -> TextPool:
        """One caption a line. Raises `EmptyPoolError` when there is none."""
        texts = read_lines(path)
        if not texts:
            raise EmptyPoolError(f"{path} holds no caption", remedy="Write one caption a line.")
        return cls(texts, name=Path(path).stem)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """sha256 of the captions in order."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()
