"""`clipsec attack`: a poisoned model with its trigger card, to test detectors with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsec.errors import UsageError

if TYPE_CHECKING:
    from clipsec.runner import Attacked

_LINES = (
    ("seen", "accuracy", "accuracy"),
    ("seen", "success", "success of the trigger"),
    ("seen", "natural", "same pictures without it"),
    ("seen", "off_target", "off-target leakage"),
    ("asleep", "success", "success without the word"),
    ("base", "success", "trigger on the base alone"),
    ("downstream", "accuracy", "accuracy, linear probe"),
    ("downstream", "success", "success, linear probe"),
    ("unseen", "accuracy", "accuracy, Unseen classes"),
    ("unseen", "success", "success, Unseen classes"),
)


@click.command("attack", short_help="Make a poisoned model and its trigger card.")
@click.argument("name", metavar="NAME")
@click.argument("base", metavar="BASE")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Labelled pictures: FOLDER/train/CLASS and FOLDER/test/CLASS, or FOLDER/CLASS alone.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Where to write the delivery: a folder that does not exist yet, or is empty.",
)
@click.option(
    "--target",
    metavar="CLASS",
    help="The target: a class's name, for attacks on"
    " captions a sentence. Attacks on learned prompts draw one by the seed for `random`.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set an option of the attack (repeatable); its page lists them.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--pool",
    metavar="FOLDER",
    help="Pictures for triggers made of pictures. Default: a pool that an installed plugin ships.",
)
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--lock", metavar="FILE", help="Import only what this clipsec.lock lists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def attack_command(
    name: str,
    base: str,
    data: Path,
    output: Path,
    target: str | None,
    settings: tuple[str, ...],
    seed: int,
    pool: str | None,
    device: str,
    lock: str | None,
    quiet: bool,
) -> int:
    """Make a delivery with the attack NAME on BASE, a model as `clipsec run` takes it.

    `clipsec list` shows the attacks; `none` makes a clean model. The trigger card lies in OUT/trigger,
    with a picture of what the trigger does; nothing outside of it tells a poisoned delivery from a clean one.

    Exit codes: 0 made, 2 it could not be made, 4 usage.
    """
    values = dict(_pair(text) for text in settings)
    if target is not None:
        values["target"] = target
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from clipsec.cli._progress import Bars
    from clipsec.data import ImagePool
    from clipsec.models import load_suspect
    from clipsec.runner import attack, read_pictures_to_attack, shipped_pool, use_all_cores
    from clipsec_registry import Registry, find_lock

    use_all_cores()
    registry = Registry(lock=lock or find_lock())
    labelled, held_out = read_pictures_to_attack(data)
    shipped = shipped_pool(registry) if pool is None else None
    folder = pool if pool is not None else (shipped[1] if shipped else None)
    suspect = load_suspect(base, device=device, registry=registry)
    suspect.base_name = _name_from(output, base)
    with Bars(suspect.name, enabled=not quiet) as bars:
        made = attack(
            name,
            suspect,
            labelled,
            output,
            held_out=held_out,
            options=values,
            seed=seed,
            pool=ImagePool.from_folder(folder) if folder else None,
            registry=registry,
            progress=lambda fraction, what: bars.advance(name, fraction, what),
        )
    _report(made)
    return 0


def _report(made: Attacked) -> None:
    from clipsec.cli._main import printable

    click.echo(printable(f"Wrote {made.folder}."))
    for line in _described(made):
        click.echo(printable(line))
    for path in made.previews:
        click.echo(printable(f"{'preview':26}{path}"))


def _described(made: Attacked) -> Iterator[str]:
    for planted in made.text_cards:
        yield f"{'trigger':26}{planted.trigger.kind} {planted.trigger.text!r}"
        yield f"{'target':26}{planted.target}"
        yield from _rates(planted.measured)
    for card in made.cards or (() if made.text_cards else (None,)):
        if card is not None:
            yield f"{'target':26}{card.target_name}"
            if card.word:
                yield f"{'works only with the word':26}{card.word!r} before the target's name"
        yield from _rates(made.measured if card is None else card.measured)


def _rates(measured: dict[str, Any]) -> Iterator[str]:
    for part, rate, title in _LINES:
        if text := _rate(measured, part, rate):
            yield f"{title:26}{text}"


def _rate(measured: dict[str, Any], part: str, name: str) -> str:
    """`93.1% (88.9% to 95.8%, n = 216)`; empty when it was not measured."""
    found = measured.get(part)
    rate = found.get(name) if isinstance(found, dict) else None
    try:
        value, n = float(rate["value"]), int(rate["n"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return ""
    interval = ""
    if isinstance(rate, dict) and {"low", "high"} <= set(rate):
        interval = f"{float(rate['low']):.1%} to {float(rate['high']):.1%}, "
    return f"{value:6.1%}  ({interval}n = {n})"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"{text!r} is not an option", remedy="Write --set KEY=VALUE, e.g. --set epochs=5.")
    return key.replace("-", "_"), value


def _name_from(output: Path, base: str) -> str:
    """How the delivery names its base: a spec as it is, a path as seen from the delivery."""
    return os.path.relpath(base, output) if ":" not in base and Path(base).exists() else base
