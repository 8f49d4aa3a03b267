"""Which classes a text names."""

from __future__ import annotations

from collections.abc import Sequence

from clipsec.triggers import whole_words


def named_classes(text: str, names: Sequence[str]) -> list[int]:
    """The classes that a text names as whole words, also in the plural; a name inside a longer one that is
    there too does not count."""
    found: list[tuple[int, int, int]] = []
    for label, name in enumerate(names):
        for match in whole_words([name.replace("_", " ").strip()]).finditer(text):
            found.append((match.start(), match.end(), label))
    whole = {
        label
        for start, end, label in found
        if not any(s <= start and end <= e and (e - s) > (end - start) for s, e, _ in found)
    }
    return sorted(whole)
