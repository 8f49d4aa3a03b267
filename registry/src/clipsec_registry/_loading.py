"""Importing one plugin, so that whatever it does wrong stays with it.

What cannot be contained inside one process: `os._exit`, a crash of native code, an import that never returns.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NoReturn

import attrs
from stevedore.extension import ExtensionManager

from clipsec_registry._api import API_VERSION, misfit, parse_api_range
from clipsec_registry._discovery import Offer
from clipsec_registry._errors import PluginError, PluginIncompatibleError, PluginLoadError
from clipsec_registry._files import locate
from clipsec_registry._local import import_local
from clipsec_registry._names import module_of
from clipsec_registry._text import describe, printable


class OneEntryPoint(ExtensionManager[Any]):
    """stevedore's manager of exactly one entry point, ours.

    Left to itself stevedore 5.10 lists entry points from a cache (stale for about two minutes after a
    reinstall), without their distribution, and lets the last of several equal names win.
    """

    def __init__(self, entry_point: EntryPoint) -> None:
        self._entry_point = entry_point
        super().__init__(entry_point.group, on_load_failure_callback=_raise)

    def list_entry_points(self) -> list[EntryPoint]:
        return [self._entry_point]


def _raise(manager: object, entry_point: EntryPoint, error: BaseException) -> NoReturn:
    raise error


@attrs.frozen
class Loaded:
    """A plugin that was imported and fits."""

    plugin: Any
    api_version: str
    summary: str


_MISSING = object()


def load_offer(offer: Offer, canonical_name: str) -> Loaded:
    """Import the plugin and compare its `api_version` with ours.

    What it prints goes to stderr, so that machine-readable output stays readable. Raises `PluginLoadError` or
    `PluginIncompatibleError`, and KeyboardInterrupt; nothing else.
    """
    local = offer.by.local
    author = offer.by.name if local is None else local.path.name
    try:
        with contextlib.redirect_stdout(sys.stderr):
            plugin = (
                OneEntryPoint(offer.entry_point).extensions[0].plugin
                if local is None
                else import_local(local, offer.entry_point)
            )
            stated = getattr(plugin, "api_version", _MISSING)
            summary = getattr(plugin, "summary", "")
            summary = printable(summary) if isinstance(summary, str) else ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failure(error, offer, canonical_name) from error
    accepted = parse_api_range(stated)
    if accepted is None:
        reason = (
            "it has no api_version"
            if stated is _MISSING
            else "its api_version is not a string like '1.0' or '>=1.0,<3.0'"
        )
        raise PluginLoadError(
            reason,
            remedy=f"Ask the authors of {author} to state the plugin API it is for."
            if local is None
            else f"Write api_version = {API_VERSION!r} in the class.",
            plugin=canonical_name,
        )
    if problem := misfit(accepted, author):
        reason, remedy = problem
        if local is not None:
            remedy = f"Bring {author} up to plugin API {API_VERSION}, and state that."
        raise PluginIncompatibleError(reason, remedy=remedy, plugin=canonical_name)
    return Loaded(plugin, accepted.text, summary)


def _failure(error: BaseException, offer: Offer, canonical_name: str) -> PluginError:
    module = module_of(offer.entry_point.value) or ""
    if offer.by.local is not None:
        home: Path | None = offer.by.local.path
        remedy, or_else = f"Correct {printable(home)}.", "leave out its --plugin-path"
    else:
        location = locate(module) if module else None
        home = location.home if location else None
        or_else = f"uninstall {offer.by.name}"
        remedy = f"Report it to the authors of {offer.by.name}; `pip uninstall {offer.by.name}` removes it."
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(missing, str) and missing.split(".")[0] != module.split(".")[0]:
        remedy = f"Install what provides the module {printable(missing, 80)}, or {or_else}."
    return PluginLoadError(describe(error, home), remedy=remedy, plugin=canonical_name)
