"""`clipsec run`: inspect delivered models."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsec.cli._inputs import parse_options, pool_or_shipped, read_class_names, refuse_under_lock
from clipsec.cli._outputs import Outputs, exit_options, read_baselines, say_failure
from clipsec.errors import UsageError

if TYPE_CHECKING:
    from clipsec.isolation import Limits
    from clipsec.models import Suspect
    from clipsec.results import RunResult
    from clipsec_registry import Registry

EVERY_DETECTOR = "*"
_NOTHING, _NAME_ONE = "there is nothing to inspect", "Name a model: clipsec run SUSPECT."

_LISTS = {"suspects", "detectors", "require", "plugin_paths", "reports", "fail_on"}
_CONFIG_KEYS = {
    "suspects",
    "pool",
    "base",
    "classes",
    "detectors",
    "options",
    "reference",
    "runs",
    "seed",
    "lock",
    "require",
    "device",
    "search_dtype",
    "plugin_options",
    "plugin_paths",
    "isolate",
    "time_limit",
    "memory_limit",
    "labelled",
    "reports",
    "baseline",
    "fail_on",
}


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Take defaults of the other flags from a TOML file whose keys are named like them."""
    if path is None:
        return None
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="Give a TOML file.") from error
    unknown = sorted(set(settings) - _CONFIG_KEYS)
    if unknown:
        raise UsageError(
            f"{path} has an unknown key {unknown[0]!r}",
            remedy=f"Known keys: {', '.join(sorted(_CONFIG_KEYS - {'plugin_options'}))}.",
        )
    _check_types(path, settings)
    tables = settings.pop("options", {})
    settings["plugin_options"] = [
        f"{name}.{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, table in tables.items()
        for key, value in table.items()
    ]
    if isinstance(settings.get("isolate"), bool):
        settings["isolate"] = [EVERY_DETECTOR] if settings["isolate"] else []
    elif isinstance(settings.get("isolate"), str):
        settings["isolate"] = [settings["isolate"]]
    context.default_map = {**(context.default_map or {}), **settings}
    return path


def _check_types(path: Path, settings: dict[str, Any]) -> None:
    """Lists and tables have to be some; of single values click says itself what is wrong."""
    for key in sorted(_LISTS & set(settings)):
        if not isinstance(settings[key], list):
            raise UsageError(
                f"{path} gives no list for {key!r}", remedy=f'Write it in brackets: {key} = ["..."].'
            )
    tables = settings.get("options", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(
            f"{path} gives no table of options for each plugin",
            remedy="Write [options.NAME], and below it one KEY = VALUE a line.",
        )


@click.command("run", short_help="Inspect delivered models; exit code for CI.")
@click.argument("suspects", nargs=-1, metavar="SUSPECT...")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    callback=_read_config,
    expose_value=False,
    help="A TOML file that says the same as the flags.",
)
@click.option(
    "--pool",
    metavar="FOLDER",
    help="Unlabelled pictures, some hundred. Default: a pool that an installed plugin ships.",
)
@click.option(
    "--base", metavar="SPEC", help="The base a prompt-tuned delivery sits on, when it does not say."
)
@click.option("--classes", metavar="FILE", help="Class names, one a line, when the delivery does not say.")
@click.option(
    "--detector", "detectors", multiple=True, metavar="NAME", help="Run only this detector (repeatable)."
)
@click.option(
    "-o",
    "--option",
    "plugin_options",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Set an option of a detector (repeatable).",
)
@click.option(
    "--labelled",
    metavar="FOLDER",
    help="Labelled pictures (FOLDER/CLASS/picture): for detectors that need labels, and for the sanity gate"
    " in place of the everyday ones.",
)
@click.option(
    "--reference",
    metavar="SPEC",
    help="The clean model that the suspect was made from, for detectors that compare with one.",
)
@click.option("--runs", default="runs", show_default=True, metavar="FOLDER", help="Where results are stored.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option(
    "--search-dtype",
    default="bfloat16",
    show_default=True,
    type=click.Choice(["bfloat16", "float32"]),
    help="Precision of the search; decisions are taken in float32.",
)
@click.option("--lock", metavar="FILE", help="Import only what this clipsec.lock lists.")
@click.option(
    "--require", multiple=True, metavar="NAME", help="Fail when this plugin is missing (repeatable)."
)
@click.option(
    "--plugin-path",
    "plugin_paths",
    multiple=True,
    metavar="FILE",
    help="Use the plugins of this unpackaged .py file too, as local/NAME; runs its code (repeatable).",
)
@click.option(
    "--isolate",
    multiple=True,
    is_flag=False,
    flag_value=EVERY_DETECTOR,
    metavar="[NAME]",
    help="Run this detector (without NAME: all) in a process of its own (repeatable).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Of its own, for each isolated detector; waiting for towers does not count.  [default: 900]",
)
@click.option(
    "--memory-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="For each isolated detector.  [default: 4]",
)
@click.option("--fresh", is_flag=True, help="Ignore what an earlier run stored.")
@click.option(
    "--format",
    "output",
    default="console",
    show_default=True,
    metavar="NAME",
    help="On stdout: console, html, json, junit, sarif, or a format that a plugin brings.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FORMAT=PATH",
    help="Write a report to a file too, e.g. sarif=clipsec.sarif (repeatable).",
)
@exit_options
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Every class in the console table.")
def run_command(
    suspects: tuple[str, ...],
    pool: str | None,
    base: str | None,
    classes: str | None,
    detectors: tuple[str, ...],
    plugin_options: tuple[str, ...],
    labelled: str | None,
    reference: str | None,
    runs: str,
    seed: int,
    device: str,
    search_dtype: str,
    lock: str | None,
    require: tuple[str, ...],
    plugin_paths: tuple[str, ...],
    isolate: tuple[str, ...],
    time_limit: float | None,
    memory_limit: float | None,
    fresh: bool,
    output: str,
    reports: tuple[str, ...],
    fail_on: tuple[str, ...],
    baseline: str | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Load each SUSPECT, inspect it with every applicable detector, and say clean or backdoored.

    A SUSPECT is a folder or a spec: a prompt-tuned delivery (CoOp, CoCoOp), an open_clip checkpoint
    (open_clip:ViT-B-32@weights.safetensors), a transformers folder, or zoo:NAME.

    Detectors that are not calibrated yet, or are there to compare with, run only when they are named with
    --detector. Results are stored below --runs; the same command goes on after a kill.

    Exit codes: 0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran, 4 usage.
    """
    if not suspects and not isolate:
        raise UsageError(_NOTHING, remedy=_NAME_ONE)
    # Read by the OpenMP runtime when torch loads: spinning threads made two threads slower than one beside
    # a busy neighbour (F.linear 400 rows, bf16: 132 against 813 GF/s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from clipsec.cli._progress import Bars
    from clipsec.data import LabelledSet
    from clipsec.engines import LocalEngine
    from clipsec.models import load_suspect
    from clipsec.runner import audit, use_all_cores
    from clipsec.scheduler import FeatureCache, Scheduler
    from clipsec_registry import Registry, find_lock

    use_all_cores()
    registry = Registry(lock=lock or find_lock(), local=plugin_paths)
    refuse_under_lock(registry)
    isolated, suspects = _isolated(registry, isolate, suspects)
    if not suspects:
        raise UsageError(_NOTHING, remedy=_NAME_ONE)
    _require(registry, require)
    outputs = Outputs.of(
        output,
        reports,
        registry,
        baselines=read_baselines(baseline, runs),
        fail_on=fail_on,
        verbose=verbose,
        several=len(suspects) > 1,
    )
    image_pool = pool_or_shipped(registry, pool, quiet=output != "console")
    labels = LabelledSet.from_folder(labelled) if labelled else None
    names = read_class_names(classes)
    clean = (
        load_suspect(reference, class_names=names, device=device, registry=registry) if reference else None
    )
    options = parse_options(plugin_options)
    show_bars = not quiet and output == "console"

    def inspect(spec: str) -> RunResult:
        suspect: Suspect = load_suspect(spec, base=base, class_names=names, device=device, registry=registry)
        with Bars(suspect.name, enabled=show_bars) as bars:
            return audit(
                suspect,
                pool=image_pool,
                detectors=detectors,
                options=options,
                reference=clean,
                labelled=labels,
                runs=runs,
                seed=seed,
                search_dtype=getattr(torch, search_dtype),
                registry=registry,
                scheduler=Scheduler(cache=FeatureCache()),
                fresh=fresh,
                isolate=isolated,
                limits=_limits(time_limit, memory_limit),
                on_progress=bars.advance,
            )

    for answer in LocalEngine().map(inspect, suspects):
        if answer.error is not None:
            outputs.add_failure(answer.item, answer.error)
            if len(suspects) == 1:
                outputs.finish()
                raise answer.error
            say_failure(answer.item, answer.error)
        elif answer.value is not None:
            outputs.add(answer.value)
    return outputs.finish()


def _isolated(
    registry: Registry, names: tuple[str, ...], suspects: tuple[str, ...]
) -> tuple[bool | tuple[str, ...], tuple[str, ...]]:
    """Which detectors to isolate, and the suspects.

    In `--isolate SUSPECT` the suspect stands where a name could: what is no detector is one, and then
    every detector is isolated.
    """
    known = {
        name for record in registry.records("detectors") for name in (record.name, record.canonical_name)
    }
    others = tuple(name for name in names if name not in known and name != EVERY_DETECTOR)
    if others or EVERY_DETECTOR in names:
        return True, others + suspects
    return names or False, suspects


def _limits(seconds: float | None, gib: float | None) -> Limits:
    from clipsec.isolation import Limits

    given: dict[str, Any] = {}
    if seconds is not None:
        given["seconds"] = seconds
    if gib is not None:
        given["memory_bytes"] = int(gib * (1 << 30))
    return Limits(**given)


def _require(registry: Registry, names: tuple[str, ...]) -> None:
    problems = registry.require(names)
    if problems:
        raise UsageError(
            f"required plugin missing: {'; '.join(map(str, problems))}",
            remedy="Install or trust it, or drop --require.",
        )
