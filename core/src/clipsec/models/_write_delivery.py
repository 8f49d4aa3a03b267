"""A trained CLIP as a vendor would deliver it, and what an attack planted in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsec.models._trainable import TrainableClip
from clipsec.store import atomic_write, whole_folder

if TYPE_CHECKING:
    from clipsec.models._suspect import Suspect
    from clipsec.triggers import TextTriggerCard, TriggerCard

_TOLD = ("accuracy", "zero_shot_accuracy")


def write_delivery(
    output: Path | str,
    model: TrainableClip,
    *,
    base: Suspect,
    data: Mapping[str, Any],
    seen: Mapping[str, Any],
    card: TriggerCard | TextTriggerCard | None = None,
) -> Path:
    """Write the model as its library does, `training.json`, and any card in `trigger/`; whole or not at all.

    `training.json` says what a vendor would say of any model: the base it was made from, `data` (which
    pictures, see `clipsec.data.describe_split`) and, of the rates in `seen`, `accuracy` and
    `zero_shot_accuracy`. So outside of `trigger/` nothing tells a poisoned delivery from a clean one.

    Returns the folder. Raises `UnsupportedModelError` like `TrainableClip.save`, or `StoreError`.
    """
    record = {
        "base": {"name": base.base_name or base.name, "digest": base.base.digest},
        "data": data,
        "measured": {"seen": {name: seen[name] for name in _TOLD}},
    }
    output = Path(output)
    with whole_folder(output) as folder:
        model.save(folder)
        atomic_write(folder / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        if card is not None:
            card.save(folder / "trigger")
    return output
