"""Labelled sets: a folder for each class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from clipsec.data._pictures import file_digest, find_pictures, read_pictures, spec_digest
from clipsec.errors import DataError
from clipsec.models import ImageSpec


@attrs.define(eq=False, slots=False)
class LabelledSet:
    """Pictures with labels. `labels[i]` indexes `class_names`."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    _pixels: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @classmethod
    def from_folder(cls, folder: Path | str, *, names: dict[str, str] | None = None) -> LabelledSet:
        """Read `folder/CLASS/picture`. Classes are sorted by folder name.

        `names` maps folder names to words for a prompt; without it `classnames.json` in the folder or its
        parent is used, else the folder names with underscores as spaces. Raises `DataError`.
        """
        folder = Path(folder)
        pictures = find_pictures(folder)
        classes = sorted({path.relative_to(folder).parts[0] for path in pictures})
        if not classes or any(len(path.relative_to(folder).parts) < 2 for path in pictures):
            raise DataError(
                f"{folder} does not hold one folder of pictures for each class",
                remedy="Arrange it as FOLDER/CLASS/picture.jpg.",
            )
        words = names if names is not None else _class_words(folder)
        labels = tuple(classes.index(path.relative_to(folder).parts[0]) for path in pictures)
        class_names = tuple(words.get(name, name.replace("_", " ")) for name in classes)
        return cls(folder.parent.name, tuple(pictures), labels, class_names)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def digest(self) -> str:
        """Digest of the pictures' bytes, their labels and the class names."""
        parts = [f"{file_digest(path)}:{label}" for path, label in zip(self.paths, self.labels, strict=True)]
        return hashlib.sha256("\n".join([*self.class_names, *parts]).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Number of pictures, number of classes and digest, for a record."""
        return {"pictures": len(self), "classes": len(self.class_names), "digest": self.digest}

    def label_tensor(self) -> Tensor:
        """int64 `[n]`."""
        return torch.tensor(self.labels, dtype=torch.int64)

    def pixels(self, spec: ImageSpec) -> Tensor:
        """All pictures through the evaluation transform: uint8 `[n, 3, size, size]`, kept."""
        key = spec_digest(spec)
        if key not in self._pixels:
            self._pixels[key] = read_pictures(self.paths, spec)
        return self._pixels[key]

    def choose(self, classes: Sequence[int]) -> LabelledSet:
        """The pictures of some classes, relabelled 0..len(classes)-1 in the given order."""
        place = {label: position for position, label in enumerate(classes)}
        kept = [i for i, label in enumerate(self.labels) if label in place]
        return LabelledSet(
            self.name,
            tuple(self.paths[i] for i in kept),
            tuple(place[self.labels[i]] for i in kept),
            tuple(self.class_names[label] for label in classes),
        )

    def subset(self, rows: Sequence[int]) -> LabelledSet:
        """Some of the pictures, by position, with the same class names."""
        return LabelledSet(
            self.name,
            tuple(self.paths[i] for i in rows),
            tuple(self.labels[i] for i in rows),
            self.class_names,
        )

    def for_classes(self, class_names: Sequence[str]) -> LabelledSet:
        """The pictures of the named classes, labelled as in `class_names`; a class may have none.

        Names are compared as prompts are: case, underscores and spaces around do not count.
        """
        place = {_plain(name): position for position, name in enumerate(class_names)}
        kept = [i for i, label in enumerate(self.labels) if _plain(self.class_names[label]) in place]
        return LabelledSet(
            self.name,
            tuple(self.paths[i] for i in kept),
            tuple(place[_plain(self.class_names[self.labels[i]])] for i in kept),
            tuple(class_names),
        )

    def split(self, share: float, *, generator: torch.Generator) -> tuple[LabelledSet, LabelledSet]:
        """Two parts without a common picture; the second has about `share` of each class, drawn at random.

        A class with two pictures or more has at least one in each part, a single picture is in the first.
        """
        first: list[int] = []
        second: list[int] = []
        for label in range(len(self.class_names)):
            members = [i for i, other in enumerate(self.labels) if other == label]
            taken = min(max(1, round(share * len(members))), len(members) - 1) if members else 0
            order = torch.randperm(len(members), generator=generator).tolist()
            second += [members[i] for i in sorted(order[:taken])]
            first += [members[i] for i in sorted(order[taken:])]
        return self.subset(first), self.subset(second)

    def shots(self, per_class: int, *, generator: torch.Generator) -> LabelledSet:
        """At most `per_class` pictures of each class, drawn at random (CoOp's few-shot sampling)."""
        kept: list[int] = []
        for label in range(len(self.class_names)):
            members = [i for i, other in enumerate(self.labels) if other == label]
            order = torch.randperm(len(members), generator=generator)[:per_class].tolist()
            kept.extend(members[i] for i in sorted(order))
        return self.subset(kept)


def describe_split(learned: LabelledSet, held_out: LabelledSet) -> dict[str, Any]:
    """Which pictures a model learned from and was measured on, for a record: name, and the facts of both."""
    return {"name": learned.name, "train": learned.facts(), "held_out": held_out.facts()}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _class_words(folder: Path) -> dict[str, str]:
    for place in (folder / "classnames.json", folder.parent / "classnames.json"):
        if place.is_file():
            try:
                words = json.loads(place.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{place} is not JSON: {error}", remedy="Repair or remove it.") from error
            if isinstance(words, dict):
                return {str(key): str(value) for key, value in words.items()}
    return {}
