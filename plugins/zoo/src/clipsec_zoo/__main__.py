"""`python -m clipsec_zoo`: build the reference models, the shipped image pool and the cards."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clipsec.errors import ClipsecError

from ._b16 import build_b16
from ._cache import cache_folder
from ._card import write_card
from ._everyday import build_everyday
from ._expanded import mini_folder
from ._mini import build_mini
from ._pool import build_pool

_DATA = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with pretrain/ and the labelled sets.",
)
_WHEEL = click.option(
    "--wheel",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The pinned source wheel, instead of downloading it with pip.",
)
_CARD = click.option(
    "--card", type=click.Path(path_type=Path, dir_okay=False), help="Write the model card to this file too."
)


@click.group()
def main() -> None:
    """Build what clipsec-zoo ships. A killed build goes on where it was."""


@main.group()
def build() -> None:
    """Build one thing from pinned files and the data folder."""


@build.command()
@_DATA
@_WHEEL
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the compact model goes (default: the cache).",
)
@_CARD
def mini(data: Path, wheel: Path | None, into: Path | None, card: Path | None) -> None:
    """EfficientNet-Lite0 with a text tower of ours: about 25 minutes on two cores."""
    output = into or cache_folder() / "built" / "mini"
    folder = build_mini(data, output, wheel, say=_say)
    write_card(output / "mini.json", card or output / "CARD_mini.md")
    click.echo(folder)


@build.command()
@_DATA
@_WHEEL
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the measured card's numbers go too.",
)
@_CARD
def b16(data: Path, wheel: Path | None, into: Path | None, card: Path | None) -> None:
    """OpenAI's ViT-B/16 image tower with a text tower of ours, into the user's cache: over an hour on two
    cores."""
    folder = build_b16(data, into, wheel, say=_say)
    write_card(folder / "b16.json", card or folder / "CARD_b16.md")
    click.echo(folder)


@build.command()
@_DATA
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False))
def pool(data: Path, into: Path) -> None:
    """The image pool, re-encoded from ood_open."""
    build_pool(data, into, say=_say)


@build.command()
@_DATA
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False))
def everyday(data: Path, into: Path) -> None:
    """The labelled pictures of the sanity gate, re-encoded from the test split of Caltech 101."""
    build_everyday(data, into, say=_say)


@main.command("mini-folder")
def mini_folder_command() -> None:
    """Unpack the shipped mini if need be, and print its open_clip folder."""
    click.echo(mini_folder())


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    try:
        main.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(4)
    except click.Abort:
        sys.exit(130)
    except ClipsecError as error:
        click.echo(f"{error}\n{error.remedy}", err=True)
        sys.exit(error.exit_code)
