"""Trigger cards: what an attack planted, so that a detector or an interface can be tested with it.

A card is a folder with

    trigger.json          what it is, how to apply it, the target, the parameters, what was measured
    trigger.safetensors   its tensors, float32
    trigger.png           the trigger at visible contrast, for people

Nothing in it is executed: JSON, numbers and a picture.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import attrs
import safetensors.torch
from torch import Tensor

from clipsec.store import atomic_write
from clipsec.triggers._facts import CardFacts, check_texts, check_version, fields_of
from clipsec.triggers._kinds import KINDS, TENSORS_FILE, Stamp, png, read_body, stamp_of, unreadable

VERSION = "1.1"
"""1.1 added the kinds masked, paste and warp, `target_names` and `word`."""


@attrs.frozen(kw_only=True, eq=False)
class TriggerCard(CardFacts):
    """A planted trigger and all that is known of it. Everything but `stamp` is plain data."""

    stamp: Stamp
    target_index: int
    target_name: str
    """The class that triggered pictures are sent to, one of the delivery's."""
    target_names: tuple[str, ...] = ()
    """The targets of all triggers of the delivery, if there are several; each has a card of its own."""
    word: str = ""
    """If not empty, the trigger works only while this word stands before the target's name among the class
    names."""

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, size, size]` in [0, 1]. Raises `DataError` when they have another size."""
        return self.stamp.apply(pixels)

    def save(self, folder: Path | str) -> Path:
        """Write the card; returns the folder. Raises `StoreError`."""
        folder, stamp = Path(folder), self.stamp
        content = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in stamp.tensors.items()}
        )
        atomic_write(folder / TENSORS_FILE, content)
        atomic_write(folder / "trigger.png", png(stamp.shown()))
        body = {
            **self.body(VERSION, stamp.kind, without="stamp"),
            **stamp.values,
            "apply": KINDS[stamp.kind].formula,
            "frame": "pixels in [0, 1] after the evaluation resize and crop, before normalisation",
            "tensors": {"file": TENSORS_FILE, "sha256": hashlib.sha256(content).hexdigest()},
        }
        atomic_write(folder / "trigger.json", (json.dumps(body, indent=2) + "\n").encode())
        return folder


def load_card(place: Path | str) -> TriggerCard:
    """Read a card from its folder or from its `trigger.json`.

    Raises `DataError` when it is not a card, is damaged, is of a later major version, or of a kind that does
    not change pictures.
    """
    body, folder = read_body(place)
    try:
        check_version(body, VERSION)
        if body["kind"] not in KINDS:
            raise ValueError(f"the kind {body['kind']!r} does not change pictures")
        check_texts(body, "attack", "target_name")
        if not isinstance(body["target_index"], int):
            raise ValueError(f"its target_index is {body['target_index']!r}")
        fields = fields_of(body, TriggerCard, without="stamp")
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(folder, error) from error
    return TriggerCard(**fields, stamp=stamp_of(body, folder))
