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
from typing import Any

import attrs
import safetensors.torch
from torch import Tensor

from clipsec.store import atomic_write
from clipsec.triggers._kinds import KINDS, TENSORS_FILE, Stamp, png, read_body, stamp_of, unreadable

FORMAT = "clipsec trigger card"
VERSION = "1.1"
"""1.1 added the kinds masked, paste and warp, `target_names` and `word`."""


@attrs.frozen(kw_only=True, eq=False)
class TriggerCard:
    """A planted trigger and all that is known of it. Everything but `stamp` is plain data."""

    attack: str
    """Name of the plugin: `badclip`, `blended`, ..."""
    stamp: Stamp
    target_index: int
    target_name: str
    """The class that triggered pictures are sent to, one of the delivery's."""
    target_names: tuple[str, ...] = ()
    """The targets of all triggers of the delivery, if there are several; each has a card of its own."""
    seed: int = 0
    base_name: str = ""
    base_digest: str = ""
    """Of the model that the prompts sit on."""
    word: str = ""
    """If not empty, the trigger works only while this word stands before the target's name among the class
    names."""
    parameters: dict[str, Any] = attrs.field(factory=dict)
    """The attack's options."""
    data: dict[str, Any] = attrs.field(factory=dict)
    """What it was trained and measured on."""
    measured: dict[str, Any] = attrs.field(factory=dict)
    """Rates by part (`seen`, `unseen`, `base`) and name (`success`, `accuracy`, ...): value, n, interval."""
    references: tuple[str, ...] = ()

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
        plain = attrs.asdict(self, filter=attrs.filters.exclude("stamp"))
        body = {
            "format": FORMAT,
            "version": VERSION,
            "kind": stamp.kind,
            **stamp.values,
            **plain,
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
        if body.get("format") != FORMAT:
            raise ValueError("it is not a trigger card")
        if str(body["version"]).partition(".")[0] != VERSION.partition(".")[0]:
            raise ValueError(f"its version {body['version']} is not {VERSION}")
        if body["kind"] not in KINDS:
            raise ValueError(f"the kind {body['kind']!r} does not change pictures")
        names = {field.name for field in attrs.fields(TriggerCard)} - {"stamp", "references", "target_names"}
        fields = {name: body[name] for name in names if name in body}
        for name in ("target_index", "target_name", "attack"):
            if not isinstance(body[name], int if name == "target_index" else str):
                raise ValueError(f"its {name} is {body[name]!r}")
        targets = tuple(str(each) for each in body.get("target_names", ()))
        references = tuple(str(each) for each in body.get("references", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(folder, error) from error
    return TriggerCard(**fields, stamp=stamp_of(body, folder), references=references, target_names=targets)
