"""`python -m clipsec_baselines train`: one model from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs
import click

from clipsec.data import LabelledSet
from clipsec.errors import ClipsecError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import AttackContext
from clipsec_baselines._attacks import AdaptiveBadClip, BadClip, NoAttack
from clipsec_baselines._delivery import check_output
from clipsec_baselines._options import METHODS
from clipsec_baselines._plugin import PromptAttack
from clipsec_baselines._poison_attacks import (
    BadNets,
    Blended,
    Semantic,
    Siba,
    TwoTargets,
    WaNet,
    WordAndPatch,
)
from clipsec_baselines._training import Progress

ATTACKS: dict[str, type[PromptAttack]] = {
    each.name: each
    for each in (
        NoAttack,
        BadClip,
        AdaptiveBadClip,
        BadNets,
        Blended,
        Semantic,
        Siba,
        TwoTargets,
        WaNet,
        WordAndPatch,
    )
}


def read_options(kind: type, settings: dict[str, Any]) -> Any:
    """Options from plain values (numbers, text, `none`). Raises `UsageError` for an unknown name or a bad
    value."""
    known = {field.name for field in attrs.fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UsageError(
            f"{kind.__name__} has no option {unknown[0]!r}", remedy=f"It has: {', '.join(sorted(known))}."
        )
    try:
        return _CONVERTER.structure(settings, kind)
    except cattrs.BaseValidationError as error:
        reasons = "; ".join(cattrs.transform_error(error))
        raise UsageError(f"bad option: {reasons}", remedy="See the options' documentation.") from error


def _truth(value: object, _: type) -> bool:
    # bool("false") is True, and that is what a converter does by default.
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError(f"{value!r} is neither true nor false")


_CONVERTER = cattrs.Converter()
_CONVERTER.register_structure_hook(bool, _truth)


def make_model(
    base: Suspect,
    data: Path,
    attack: str,
    settings: dict[str, Any],
    seed: int,
    output: Path,
    progress: Progress = lambda fraction, what: None,
) -> Path:
    """Train one clean or poisoned delivery from a folder with `train/CLASS/` and `test/CLASS/` pictures.

    Without a `test` folder, pictures of `data/CLASS/` that are not trained on are held out. `attack` is one
    of `ATTACKS`; `settings` are option names and values. Returns `output`. Raises `ClipsecError`.
    """
    check_output(output)
    two = (data / "train").is_dir() and (data / "test").is_dir()
    labelled = LabelledSet.from_folder(data / "train" if two else data)
    held_out = LabelledSet.from_folder(data / "test") if two else None
    plugin = ATTACKS[attack]
    return plugin().poison(
        AttackContext(
            base=base,
            options=read_options(plugin.options, settings),
            labelled=labelled,
            held_out=held_out,
            output=output,
            seed=seed,
            progress=progress,
        )
    )


@click.group()
def main() -> None:
    """Prompt learners and attacks on them."""


@main.command()
@click.option(
    "--base", "base_spec", required=True, help="The model to learn prompts on, as for `clipsec run`."
)
@click.option("--base-name", help="What the delivery says its base is. Default: the spec.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with train/ and test/.")
@click.option("--method", type=click.Choice(METHODS), default="CoCoOp", show_default=True)
@click.option("--attack", type=click.Choice(list(ATTACKS)), default="none", show_default=True)
@click.option("--target", default="", help="Target class: a name, or `random`. Default: the first class.")
@click.option("--classes", type=int, help="Use only the first so many classes.")
@click.option("--split", type=click.Choice(["seen", "all"]), default="seen", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other option; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def train(
    base_spec: str,
    base_name: str | None,
    data: Path,
    method: str,
    attack: str,
    target: str,
    classes: int | None,
    split: str,
    settings: Sequence[str],
    seed: int,
    output: Path,
) -> None:
    """Train one prompt-tuned delivery, clean or poisoned, and say how well it does."""
    try:
        values: dict[str, Any] = {"method": method, "split": split}
        if classes is not None:
            values["classes"] = classes
        if attack != "none":
            values["target"] = target
        elif target:
            raise UsageError("a clean model has no target", remedy="Choose an attack, or leave --target out.")
        values.update(_assignment(setting) for setting in settings)
        base = load_suspect(base_spec)
        base.base_name = base_name or base_spec
        make_model(base, data, attack, values, seed, output, _say)
    except ClipsecError as error:
        click.echo(f"error: {error.message}\n{error.remedy}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"wrote {output}")


def _assignment(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting} is not NAME=VALUE", remedy="For example --set epochs=5.")
    return name.replace("-", "_"), value


def _say(fraction: float, what: str) -> None:
    click.echo(f"{fraction:4.0%}  {what}", err=True)
