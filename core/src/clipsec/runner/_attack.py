"""Making a poisoned model with an attack plugin, and looking at what it made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.errors import ContractError, DataError, StoreError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import AttackContext
from clipsec.runner._plugin_options import make_options
from clipsec.store import atomic_write
from clipsec.triggers import (
    Stamp,
    TextTriggerCard,
    TriggerCard,
    is_text_card,
    load_card,
    load_text_card,
    png,
)
from clipsec.triggers._kinds import card_folders
from clipsec_registry import PluginError, Registry

PREVIEW = "preview.png"
_EXAMPLES = 4
_SHOWN_SIDE = 160
"""Pictures of the preview are scaled up to at least this side, by whole factors."""


@attrs.frozen(eq=False)
class Attacked:
    """A delivery that an attack made."""

    folder: Path
    suspect: Suspect
    """The delivery, loaded as a user would get it."""
    cards: tuple[TriggerCard, ...]
    """One for each trigger on pictures; none for a clean control."""
    measured: dict[str, Any]
    """Rates of the delivery by part and name, see `TriggerCard.measured`; of several triggers those of the
    first card."""
    previews: tuple[Path, ...]
    text_cards: tuple[TextTriggerCard, ...] = ()
    """One for each trigger in captions."""


def attack(
    name: str,
    base: Suspect,
    labelled: LabelledSet,
    output: Path | str,
    *,
    held_out: LabelledSet | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    pool: ImagePool | None = None,
    registry: Registry | None = None,
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> Attacked:
    """Run an installed attack on a base; writes the delivery and a preview of each trigger into `output`.

    Without `held_out` the attack measures on what it leaves of `labelled`. `options` are those of the plugin,
    as texts or values; `pool` is for attacks that make their trigger of pictures.

    Raises `UsageError` for an unknown attack or option, `StoreError` when `output` is not empty,
    `ContractError` when the attack changes the base or does not deliver, and whatever the attack raises.
    """
    output, registry = Path(output), registry or Registry()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StoreError(f"{output} exists already", remedy="Choose another folder, or remove it.")
    plugin = _plugin(registry, name)
    values = make_options(plugin.options, options or {}, name)
    folder = Path(
        plugin().poison(
            AttackContext(
                base=base,
                options=values,
                labelled=labelled,
                held_out=held_out,
                output=output,
                pool=pool,
                seed=seed,
                progress=progress,
            )
        )
    )
    if changed := base.changed():
        raise ContractError(
            f"{name} changed the base in memory ({', '.join(changed)[:200]})",
            remedy="Do not use what it made, and report it to the authors of the attack.",
        )
    if not output.is_dir() or folder.resolve() != output.resolve():
        raise ContractError(
            f"{name} did not write its delivery into {output}",
            remedy="Report it to the authors of the attack.",
        )
    # Shows that it can be delivered.
    suspect = load_suspect(folder, registry=registry)
    places = card_folders(folder)
    texts = tuple(load_text_card(place) for place in places if is_text_card(place))
    places = tuple(place for place in places if not is_text_card(place))
    cards = tuple(load_card(place) for place in places)
    pictures = held_out if held_out is not None else labelled
    previews = tuple(
        _save_preview(place, base, pictures, card) for place, card in zip(places, cards, strict=True)
    )
    told = [card.measured for card in cards] + [card.measured for card in texts]
    measured = told[0] if told else _record(folder)
    return Attacked(folder, suspect, cards, measured, previews, texts)


def read_pictures_to_attack(folder: Path | str) -> tuple[LabelledSet, LabelledSet | None]:
    """What to learn from and what to measure on: `FOLDER/train/CLASS` and `FOLDER/test/CLASS`, or
    `FOLDER/CLASS` alone. Raises `DataError`."""
    folder = Path(folder)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return LabelledSet.from_folder(folder / "train"), LabelledSet.from_folder(folder / "test")
    return LabelledSet.from_folder(folder), None


def preview(pixels: Tensor, stamp: Stamp) -> Tensor:
    """Clean | what the trigger changes | triggered, a row a picture: `[n, 3, size, size]` -> `[3, height,
    width]`.

    The change is shown around mid grey, stretched to full contrast over all the pictures together.
    """
    stamped = stamp.apply(pixels)
    change = stamped - pixels
    shown = 0.5 + 0.5 * change / change.abs().max().clamp_min(1e-12)
    rows = torch.cat([pixels, shown, stamped], dim=-1)
    factor = -(-_SHOWN_SIDE // pixels.shape[-1])
    sheet = torch.cat(list(rows), dim=-2)
    return sheet.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _plugin(registry: Registry, name: str) -> Any:
    try:
        record = registry.find("attacks", name)
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    plugin = registry.load(record, strict=True)
    kind = getattr(plugin, "options", None)
    if not callable(getattr(plugin, "poison", None)) or not isinstance(kind, type) or not attrs.has(kind):
        raise ContractError(
            f"{record.canonical_name} has no method poison, or its options are not an attrs class",
            remedy=f"Report it to the authors of {record.distribution}.",
        )
    return plugin


def _save_preview(place: Path, base: Suspect, pictures: LabelledSet, card: TriggerCard) -> Path:
    visual = base.base.visual
    if visual is None:
        raise DataError(f"{base.name} has no image tower", remedy="Attack a base with both towers.")
    first = [pictures.labels.index(label) for label in sorted(set(pictures.labels))][:_EXAMPLES]
    pixels = to_unit(pictures.pixels(visual.spec)[first])
    path = place / PREVIEW
    atomic_write(path, png(preview(pixels, card.stamp)))
    return path


def _record(folder: Path) -> dict[str, Any]:
    """What a clean control measured of itself; nothing if it does not say."""
    try:
        measured = json.loads((folder / "training.json").read_text(encoding="utf-8"))["measured"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return measured if isinstance(measured, dict) else {}
