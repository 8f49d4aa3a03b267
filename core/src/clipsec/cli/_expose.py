"""`clipsec expose`: through which uses of a model a trigger hurts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsec.cli._inputs import parse_options, pool_or_shipped, read_class_names, refuse_under_lock
from clipsec.errors import UsageError

if TYPE_CHECKING:
    from clipsec.models import Suspect
    from clipsec.protocols import CaptionTrigger, Trigger
    from clipsec.results import RunResult


@click.command("expose", short_help="Through which uses a trigger hurts: interfaces x triggers.")
@click.argument("suspect", metavar="SUSPECT")
@click.option(
    "--trigger",
    "cards",
    multiple=True,
    metavar="CARD",
    help="A trigger card, or a delivery with a folder `trigger` (repeatable).",
)
@click.option(
    "--finding",
    metavar="RUN",
    help="Without a card: the run of `clipsec run` whose recovered triggers are measured.",
)
@click.option("--detector", default="", metavar="NAME", help="Whose finding, if the run has several.")
@click.option(
    "--reference",
    metavar="SPEC",
    help="The clean model to compare with, e.g. the public base.  [default: a prompt-tuned delivery's own"
    " base]",
)
@click.option(
    "--labelled",
    metavar="FOLDER",
    help="Labelled pictures of the model's classes: FOLDER/train/CLASS and FOLDER/test/CLASS, or FOLDER/CLASS"
    " alone, half of which is then measured on.",
)
@click.option("--captions", metavar="FILE", help="Captions to search among, one a line.")
@click.option(
    "--pool", metavar="FOLDER", help="Unlabelled pictures for galleries. Default: those that a plugin ships."
)
@click.option(
    "--interface", "interfaces", multiple=True, metavar="NAME", help="Only this interface (repeatable)."
)
@click.option(
    "--option",
    "plugin_options",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Set an option of an interface (repeatable).",
)
@click.option(
    "--localise", is_flag=True, help="Also search for the layers that carry the effect: many more passes."
)
@click.option(
    "-o",
    "--output",
    default="exposures",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the page and the records go, in a folder of the model's name.",
)
@click.option(
    "--base", metavar="SPEC", help="The base a prompt-tuned delivery sits on, when it does not say."
)
@click.option("--classes", metavar="FILE", help="Class names, one a line, when the delivery does not say.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option(
    "--plugin-path",
    "plugin_paths",
    multiple=True,
    metavar="FILE",
    help="An unpackaged Python file with an interface, without trust (repeatable).",
)
@click.option("--lock", metavar="FILE", help="Import only what this clipsec.lock lists.")
@click.option(
    "--format", "shown", default="console", show_default=True, type=click.Choice(["console", "json"])
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def expose_command(
    suspect: str,
    cards: tuple[str, ...],
    finding: str | None,
    detector: str,
    reference: str | None,
    labelled: str | None,
    captions: str | None,
    pool: str | None,
    interfaces: tuple[str, ...],
    plugin_options: tuple[str, ...],
    localise: bool,
    output: Path,
    base: str | None,
    classes: str | None,
    seed: int,
    device: str,
    plugin_paths: tuple[str, ...],
    lock: str | None,
    shown: str,
    quiet: bool,
) -> int:
    """Measure through which uses of SUSPECT a trigger hurts, against a clean reference.

    Each cell is one use (an interface) and one trigger, on the suspect and on the reference, with and
    without the trigger. A cell without a number says why: N.E. (the question has no meaning), not run,
    artifact missing or error. None of them reads as safe.

    Exit codes: 0 every cell that was compared is equivalent to the reference, for these triggers; 1 some use
    is exposed; 2 error or inconclusive, which includes a ceiling, a broken clean use and a missing reference;
    3 nothing could be compared; 4 usage.
    """
    from clipsec.cli._progress import Bars
    from clipsec.data import TextPool
    from clipsec.models import load_suspect
    from clipsec.reports import render_exposure
    from clipsec.results import exposure_to_text
    from clipsec.runner import expose, read_pictures_to_attack, use_all_cores
    from clipsec.store import safe_name
    from clipsec_registry import Registry, find_lock

    if bool(cards) == (finding is not None):
        raise UsageError(
            "both a card and a finding are given" if cards else "there is no trigger to measure with",
            remedy="Name either cards with --trigger CARD, or with --finding RUN a run of this model that"
            " found something.",
        )
    options = parse_options(plugin_options)
    use_all_cores()
    registry = Registry(lock=lock or find_lock(), local=plugin_paths)
    refuse_under_lock(registry)
    train, test = read_pictures_to_attack(labelled) if labelled else (None, None)
    names = read_class_names(classes)
    model = load_suspect(suspect, base=base, class_names=names, device=device, registry=registry)
    if not model.class_names and train is not None:
        model.class_names = train.class_names
    clean = None
    if reference is not None:
        clean = load_suspect(reference, device=device, registry=registry)
    triggers = _triggers(cards, finding, detector, model)
    image_pool = None
    if pool is not None or train is not None:  # without labelled pictures no gallery is searched
        image_pool = pool_or_shipped(registry, pool, quiet=shown != "console")
    place = output / safe_name(f"{model.name} {model.digest[:8]}")
    with Bars(model.name, enabled=not quiet and shown == "console") as bars:
        result = expose(
            model,
            triggers,
            reference=clean,
            labelled=train,
            held_out=test,
            pool=image_pool,
            captions=TextPool.from_file(captions) if captions else None,
            interfaces=interfaces,
            options=options,
            output=place,
            recovered=finding is not None,
            localise=localise,
            seed=seed,
            registry=registry,
            on_progress=lambda fraction, what: bars.advance("expose", fraction, what),
        )
    if shown == "json":
        click.echo(exposure_to_text(result), nl=False)
    else:
        render_exposure(result)
    return result.exit_code


def _triggers(
    cards: tuple[str, ...], finding: str | None, detector: str, model: Suspect
) -> list[Trigger | CaptionTrigger]:
    """The triggers of the cards, or those that the run recovered. Raises `UsageError` when there is none."""
    from clipsec.protocols import load_any_trigger
    from clipsec.runner import choose_finding, recovered_triggers
    from clipsec.store import read_run
    from clipsec.triggers._kinds import card_folders

    if finding is None:
        # A delivery may have several cards, a card is a folder or its JSON.
        return [load_any_trigger(place) for card in cards for place in card_folders(card) or (card,)]
    run: RunResult = read_run(finding)
    verdict = choose_finding(run, model, detector)
    found = recovered_triggers(verdict, run.folder, model)
    if not found:
        raise UsageError(
            "the finding holds no trigger that can be applied to pictures or written into captions",
            remedy="Name a detector that recovers triggers with --detector, or a card with --trigger.",
        )
    return list(found)
