"""`clipsec plugin new`: a plugin package to start from."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new", short_help="Write a plugin package to start from.")
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@click.option(
    "-o",
    "--output",
    default=".",
    show_default="this folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder in which the package's own folder is made.",
)
def new_command(kind: str, name: str, output: Path) -> int:
    """Write a package NAME with a small plugin that works, its test on the conformance kit, and a CI file.

    KIND is attack, detector, interface, loader, repair or report. NAME becomes the name of the distribution
    and of the plugin.
    """
    from clipsec.scaffold import new_plugin

    folder = new_plugin(kind, name, output)
    shown = click.format_filename(folder)
    click.echo(
        f"Wrote {shown}. Next:\n\n    cd {shown}\n    pip install -e '.[test]'\n    pytest\n    clipsec list"
    )
    return 0
