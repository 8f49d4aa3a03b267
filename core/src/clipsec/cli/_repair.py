"""`clipsec repair`: a repaired model from a finding, with what that did before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsec.cli._inputs import parse_options, pool_or_shipped, read_class_names
from clipsec.errors import UsageError

if TYPE_CHECKING:
    from clipsec.protocols import Trigger
    from clipsec.triggers import TextTriggerCard


@click.command("repair", short_help="Make a repaired model from a finding; before and after.")
@click.argument("suspect", metavar="SUSPECT")
@click.option(
    "--finding",
    metavar="RUN",
    help="The folder of the run that found the backdoor. Some repairs of CLIPs need none.",
)
@click.option(
    "--labelled",
    metavar="FOLDER",
    help="Pictures of the model's classes with true labels (FOLDER/CLASS/picture); a handful a class. Needed"
    " for learned prompts and for triggers on pictures; a text tower is measured on captions too.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Where to write the repaired model: a folder that does not exist yet.",
)
@click.option(
    "--held-out",
    metavar="FOLDER",
    help="Labelled pictures to measure on.  [default: four tenths of --labelled, which the repair then does"
    " not see]",
)
@click.option(
    "--captions",
    metavar="FILE",
    help="Clean captions, one a line, to mend and measure a text tower with.  [default: COCO captions that"
    " ship with clipsec]",
)
@click.option(
    "--reference",
    metavar="SPEC",
    help="A clean model of the same kind, e.g. the public base: shown to the repair, and compared with.",
)
@click.option(
    "--repair", "plugin", default="", metavar="NAME", help="Which repair, if several suit the model."
)
@click.option("--detector", default="", metavar="NAME", help="Whose finding, if the run has several.")
@click.option(
    "--option",
    "plugin_options",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Set an option of the repair (repeatable).",
)
@click.option(
    "--trigger",
    "cards",
    multiple=True,
    metavar="CARD",
    help="The attacker's own trigger card, or a delivery with its cards, if it is known: measured before and"
    " after, never shown to the repair (repeatable).",
)
@click.option(
    "--known-trigger",
    metavar="CARD",
    help="The card of a trigger in captions that the repair may use, with a finding or in place of one.",
)
@click.option(
    "--goal",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Success of a trigger that may be left.",
)
@click.option(
    "--allowed-drop",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Clean accuracy that may be lost.",
)
@click.option(
    "--least-likeness",
    default=0.95,
    show_default=True,
    type=click.FloatRange(-1, 1),
    help="Mean cosine of clean captions to where they were that a text tower must keep.",
)
@click.option(
    "--pool",
    metavar="FOLDER",
    help="Unlabelled pictures. Default: a pool that an installed plugin ships.",
)
@click.option(
    "--base", metavar="SPEC", help="The base a prompt-tuned delivery sits on, when it does not say."
)
@click.option("--classes", metavar="FILE", help="Class names, one a line, when the delivery does not say.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--lock", metavar="FILE", help="Import only what this clipsec.lock lists.")
@click.option(
    "--format", "shown", default="console", show_default=True, type=click.Choice(["console", "json"])
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def repair_command(
    suspect: str,
    finding: str | None,
    labelled: str | None,
    output: Path,
    held_out: str | None,
    captions: str | None,
    reference: str | None,
    plugin: str,
    detector: str,
    plugin_options: tuple[str, ...],
    cards: tuple[str, ...],
    known_trigger: str | None,
    goal: float,
    allowed_drop: float,
    least_likeness: float,
    pool: str | None,
    base: str | None,
    classes: str | None,
    seed: int,
    device: str,
    lock: str | None,
    shown: str,
    quiet: bool,
) -> int:
    """Repair SUSPECT with what RUN found, and measure the result on pictures and captions that the repair
    never saw.

    OUT is written only if the repair reached its goal: every trigger is left with at most --goal, the 95%
    interval of that ends below twice the goal, clean accuracy fell by no more than --allowed-drop, and the
    captions of a text tower stayed where they were (--least-likeness). Then OUT is a delivery like the one
    that was repaired, with the numbers in repair.json.

    Exit codes: 0 repaired; 2 not repaired, or nothing can be said, or an error; 4 usage.
    """
    from clipsec.cli._progress import Bars
    from clipsec.models import load_suspect
    from clipsec.reports import render_repair
    from clipsec.results import repair_to_text
    from clipsec.runner import load_planted, repair, use_all_cores
    from clipsec.triggers import load_text_card
    from clipsec_registry import Registry, find_lock

    use_all_cores()
    registry = Registry(lock=lock or find_lock())
    planted: list[Trigger | TextTriggerCard] = []
    for card in cards:
        found = load_planted(card)
        if not found:
            raise UsageError(
                f"there is no trigger card in {card}", remedy="Name a card, or a delivery that has some."
            )
        planted += found
    names = read_class_names(classes)
    model = load_suspect(suspect, base=base, class_names=names, device=device, registry=registry)
    with Bars(model.name, enabled=not quiet and shown == "console") as bars:
        result = repair(
            model,
            finding=finding,
            labelled=labelled,
            output=output,
            held_out=held_out,
            captions=captions,
            reference=reference,
            plugin=plugin,
            options=parse_options(plugin_options),
            detector=detector,
            trigger=planted,
            known=load_text_card(known_trigger) if known_trigger else None,
            pool=pool_or_shipped(registry, pool, quiet=shown != "console"),
            goal=goal,
            allowed_drop=allowed_drop,
            least_likeness=least_likeness,
            seed=seed,
            registry=registry,
            on_progress=lambda fraction, what: bars.advance("repair", fraction, what),
        )
    if shown == "json":
        click.echo(repair_to_text(result), nl=False)
    else:
        render_repair(result)
    return result.exit_code
