"""What several verbs read from the command line alike: options of plugins, the image pool, local plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from clipsec.errors import DataError, UsageError

if TYPE_CHECKING:
    from clipsec.data import ImagePool
    from clipsec_registry import Registry


def parse_options(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`clip-inspector.epsilon=8/255` -> {"clip-inspector": {"epsilon": "8/255"}}. Raises `UsageError`."""
    options: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, dot, key = left.rpartition(".")
        if not (equals and dot and name and key):
            raise UsageError(f"{text!r} is not an option", remedy="Write NAME.KEY=VALUE.")
        options.setdefault(name, {})[key] = value
    return options


def read_class_names(path: str | None) -> tuple[str, ...] | None:
    """The class names of --classes, one a line; None without. Raises `DataError`, also for a file without
    any, which would read as if none had been given."""
    from clipsec.data import read_lines

    if path is None:
        return None
    names = read_lines(path)
    if not names:
        raise DataError(f"{path} holds no class name", remedy="Write one a line, in the order of training.")
    return names


def pool_or_shipped(registry: Registry, folder: str | None, *, quiet: bool) -> ImagePool | None:
    """The user's pool, or the one that an installed model plugin ships; whose, goes to stderr.

    None when there is neither. Raises `DataError`.
    """
    from clipsec.data import ImagePool
    from clipsec.runner import shipped_pool

    if folder is not None:
        return ImagePool.from_folder(folder)
    shipped = shipped_pool(registry)
    if shipped is None:
        return None
    owner, path = shipped
    if not quiet:
        click.echo(f"No --pool given: using the pictures that {owner} ships.", err=True)
    return ImagePool.from_folder(path)


def refuse_under_lock(registry: Registry) -> None:
    """Raise `UsageError` when --plugin-path cannot be used: skipping a file that was asked for by name could
    read as if it had found nothing."""
    for record in registry.records():
        if record.local and record.status == "untrusted":
            raise UsageError(f"--plugin-path cannot be used: {record.reason}", remedy=record.remedy)
