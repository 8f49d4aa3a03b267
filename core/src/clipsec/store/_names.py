"""File names for anything: readable, unique, and safe on every file system."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_READABLE = 48


def safe_name(name: str) -> str:
    """A file name (without suffix) for any text: a readable part, then 64 bits of the text's own digest.

    Never a path: no separator, no leading dot, lower case only (some file systems fold case), at most 65
    characters. The readable part may be empty, e.g. for a class name in an unusual script.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    readable = slug(name)
    return f"{readable}-{digest}" if readable else digest


def slug(name: str) -> str:
    """The readable part: ASCII letters, digits and dashes, at most 48. Not unique, may be empty."""
    ascii_text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_READABLE].strip("-")
