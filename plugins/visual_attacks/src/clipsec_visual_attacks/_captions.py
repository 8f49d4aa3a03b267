"""Captions for contrastive training: what names one class and no other."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from clipsec.data import TextPool, coco_captions
from clipsec.exposure import named_classes

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture showing a {}.",
    "one {} in a photo",
    "a {} and nothing else",
    "a sharp photo of a {}.",
    "a small photo of the {}.",
    "look at this {}",
)


@attrs.frozen
class ClassCaptions:
    """Captions of each class."""

    natural: tuple[tuple[str, ...], ...]
    """Of a corpus; a class may have none."""
    made: tuple[tuple[str, ...], ...]
    """Of `TEMPLATES`."""

    @classmethod
    def of(cls, names: Sequence[str], texts: Sequence[str]) -> ClassCaptions:
        """Those of the texts that name exactly one of the classes, as whole words, and the made ones."""
        found: list[list[str]] = [[] for _ in names]
        for text in texts:
            if len(named := named_classes(text, names)) == 1:
                found[named[0]].append(text)
        words = [name.replace("_", " ") for name in names]
        made = tuple(tuple(template.format(word) for template in TEMPLATES) for word in words)
        return cls(tuple(map(tuple, found)), made)

    def of_class(self, label: int, most: int, generator: torch.Generator) -> tuple[str, ...]:
        """Natural captions of a class, at most so many, drawn; made ones where there is no natural one."""
        choices = self.natural[label] or self.made[label]
        order = torch.randperm(len(choices), generator=generator)[:most].sort().values
        return tuple(choices[place] for place in order.tolist())

    def others(self, label: int) -> tuple[str, ...]:
        """All captions of all other classes."""
        return tuple(
            text
            for place, made in enumerate(self.made)
            if place != label
            for text in self.natural[place] + made
        )

    def draw(self, labels: Sequence[int], generator: torch.Generator) -> list[str]:
        """A caption for each label: a natural one for half of them, where there is one, else a made one."""
        drawn = torch.rand(len(labels), 2, generator=generator).tolist()
        captions = []
        for label, (which, place) in zip(labels, drawn, strict=True):
            natural = self.natural[label] if which < 0.5 else ()
            choices = natural or self.made[label]
            captions.append(choices[int(place * len(choices))])
        return captions


def read_captions(file: str) -> TextPool:
    """The captions of a file, one a line, or those of COCO that ship with clipsec. Raises `DataError`."""
    return TextPool.from_file(file) if file else coco_captions()
