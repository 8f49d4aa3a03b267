"""Triggers and what they aim at: what a detector found, and what an attack says it planted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import attrs
import safetensors.torch
from torch import Tensor

from clipsec.errors import DataError
from clipsec.protocols._interface import Channel
from clipsec.results import Verdict
from clipsec.store import read_artifact
from clipsec.triggers import (
    Stamp,
    TextTrigger,
    TextTriggerCard,
    is_text_card,
    load_card,
    load_text_card,
    read_stamp,
)
from clipsec.triggers._kinds import card_folders
from clipsec_registry import printable


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Trigger:
    """A trigger on pictures and the class that it aims at."""

    channels: ClassVar[frozenset[Channel]] = frozenset(
        {Channel.QUERY_IMAGE, Channel.CORPUS_IMAGE, Channel.MECHANISM}
    )
    enters: ClassVar[str] = "pictures"

    stamp: Stamp
    target_index: int
    target_name: str
    origin: str = ""
    """Who says so: a detector or an attack."""

    @property
    def size(self) -> int | None:
        """Side of the pictures it fits on; None when it fits on all."""
        return self.stamp.size

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, size, size]` in [0, 1]; the same shape and range."""
        return self.stamp.apply(pixels)

    @cached_property
    def digest(self) -> str:
        """sha256 of what it does and aims at."""
        stamp = self.stamp
        parts = [safetensors.torch.save({k: v.contiguous() for k, v in sorted(stamp.tensors.items())})]
        parts.append(repr((stamp.kind, sorted(stamp.values.items()), self.target_name)).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


@attrs.frozen(kw_only=True, eq=False, slots=False)
class CaptionTrigger:
    """A trigger in captions, and the class that they are then to mean."""

    channels: ClassVar[frozenset[Channel]] = frozenset({Channel.QUERY_TEXT, Channel.CORPUS_TEXT})
    enters: ClassVar[str] = "texts"

    text: TextTrigger
    target_index: int = -1
    target_name: str
    source_name: str = ""
    """The class whose captions it works on; empty when it works on all."""
    origin: str = ""

    @classmethod
    def of_card(cls, card: TextTriggerCard) -> CaptionTrigger:
        """The trigger of a card of a text tower, which names no class: `target_name` is what it aims at."""
        return cls(text=card.trigger, target_name=card.target, source_name=card.source, origin=card.attack)

    def apply(self, captions: Sequence[str]) -> list[str]:
        """The captions with the trigger in them; one that has nothing to replace stays as it is."""
        return [self.text.apply(caption) for caption in captions]

    @cached_property
    def digest(self) -> str:
        """sha256 of what it does and aims at."""
        # A trigger without names has the digest that it had before there were any.
        how = attrs.astuple(self.text, filter=lambda field, value: field.name != "names" or bool(value))
        parts = (how, self.source_name, self.target_name)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def load_any_trigger(place: Path | str) -> Trigger | CaptionTrigger:
    """The trigger of a card, on pictures or in captions; `place` as for `load_trigger`. Raises `DataError`.

    A card of a text tower names no class: `target_name` is then the caption that it aims at.
    """
    if not is_text_card(place):
        return load_trigger(place)
    return CaptionTrigger.of_card(load_text_card(place))


def load_trigger(place: Path | str) -> Trigger:
    """The trigger of a card: its folder, its `trigger.json`, or a delivery with a folder `trigger/`.

    Raises `DataError` for what is no card, is damaged, is of a later major version or of another kind.
    """
    beside = Path(place) / "trigger"
    card = load_card(beside if beside.is_dir() else place)
    return Trigger(
        stamp=card.stamp,
        target_index=card.target_index,
        target_name=card.target_name,
        origin=card.attack,
    )


def load_triggers(place: Path | str) -> tuple[Trigger, ...]:
    """The triggers on pictures of a delivery, each from a card of its own, or that of one card.

    Empty for a folder without a card, and for one whose cards are of triggers in captions. Raises
    `DataError`.
    """
    if Path(place).is_file():
        return (load_trigger(place),)
    return tuple(load_trigger(card) for card in card_folders(place) if not is_text_card(card))


def found_triggers(verdict: Verdict, folder: Path | str, *, flagged: bool = True) -> tuple[Trigger, ...]:
    """The triggers that a detector left as artifacts of its evidence, the most suspicious class first.

    `folder` is what the artifacts' paths count from (the run's). `flagged` leaves out classes that the
    verdict does not flag. Evidence without a trigger file gives none. Raises `StoreError` for a file that is
    gone or was changed since, `DataError` for one that holds no trigger.
    """
    rows = [row for row in verdict.evidence if row.flagged or not flagged]
    rows.sort(key=lambda row: (row.index != verdict.target_index, -row.measures.get("score", 0.0)))
    triggers = []
    for row in rows:
        for artifact in row.artifacts:
            if artifact.kind != "trigger":
                continue
            try:
                stamp = read_stamp(read_artifact(artifact, folder))
            except DataError as error:
                raise DataError(
                    f"{printable(artifact.path, 120)} holds no trigger that can be applied to pictures",
                    remedy="Audit again; if it stays so, report it to the detector's authors.",
                ) from error
            triggers.append(
                Trigger(
                    stamp=stamp,
                    target_index=row.index,
                    target_name=row.name,
                    origin="" if verdict.provenance is None else verdict.provenance.detector,
                )
            )
    return tuple(triggers)
