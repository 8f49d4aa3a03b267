"""Which entry points are installed, and who offers them, read from metadata without importing a plugin.

Not `importlib.metadata.entry_points()`, because one malformed `entry_points.txt` anywhere makes it raise for
everybody, and because two copies of a distribution must be told apart. Not stevedore's list either: it drops
the distribution, and its cache keeps old names for minutes after a reinstall.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from clipsec_registry._names import FIRST_PARTY, LOCAL, is_name, normalise, resembled
from clipsec_registry._records import Kind
from clipsec_registry._text import printable


@attrs.frozen(eq=False)
class LocalFile:
    """One unpackaged file, as it was when it was read."""

    path: Path
    content: bytes = attrs.field(repr=False)
    sha256: str


@attrs.frozen(kw_only=True, eq=False)
class Installation:
    """One installed distribution, or what stands for one: an unpackaged file."""

    metadata: Distribution = attrs.field(repr=False)
    name: str
    """Normalised."""
    version: str
    folder: Path
    """Its `.dist-info` (or `.egg-info`) folder."""
    entry_points: tuple[EntryPoint, ...]
    """Those in our groups."""
    summary: str
    licence: str
    project: Path | None
    """For an editable installation, the folder it is developed in; else None."""
    problem: tuple[str, str] | None
    """Reason and remedy, when it is unclear whose it is."""
    note: str
    local: LocalFile | None = None
    """The unpackaged file; `folder` is then its path."""

    @property
    def first_party(self) -> bool:
        return self.name in FIRST_PARTY and self.problem is None


@attrs.frozen(eq=False)
class Offer:
    """An entry point together with the distribution that declares it."""

    entry_point: EntryPoint
    kind: Kind
    by: Installation


def discover() -> list[Offer]:
    """Every entry point of the groups of `Kind`, ordered by kind, name and distribution."""
    importlib.invalidate_caches()
    # Python 3.11 forgets to pass that on to the cache of folders with metadata, which goes by mtime.
    MetadataPathFinder().invalidate_caches()
    offers = []
    for distribution, folder, copies in _first_on_path():
        entry_points = list(_entry_points(distribution, folder))
        if entry_points:
            by = _installation(distribution, folder, copies, tuple(point for _, point in entry_points))
            offers += [Offer(entry_point, kind, by) for kind, entry_point in entry_points]
    order = {kind: index for index, kind in enumerate(Kind)}
    return sorted(
        offers,
        key=lambda offer: (
            order[offer.kind],
            normalise(offer.entry_point.name),
            offer.by.name,
            offer.entry_point.value,
        ),
    )


def _first_on_path() -> Iterator[tuple[Distribution, Path, list[Path]]]:
    """Each distribution as Python would pick it, its metadata folder, and the folders of further copies."""
    found: dict[str, list[tuple[Distribution, Path]]] = {}
    for distribution in distributions():
        folder = Path(
            os.path.abspath(str(getattr(distribution, "_path", distribution.locate_file("_.dist-info"))))
        )
        # pip renames a folder to `~...` while it upgrades and leaves it there when interrupted.
        if not folder.name.startswith("~"):
            found.setdefault(_name_of(folder), []).append((distribution, folder))
    for copies in found.values():
        distribution, folder = copies[0]
        # A path that lies twice on sys.path, perhaps through a link, finds the same folder twice.
        real = {os.path.realpath(other): other for _, other in reversed(copies)}
        yield distribution, folder, [other for other in real.values() if other != folder]


def _name_of(folder: Path) -> str:
    return normalise(folder.stem.partition("-")[0])


def _text(distribution: Distribution, name: str) -> str:
    """A metadata file; empty when it is missing or unreadable."""
    try:
        return distribution.read_text(name) or ""
    except (OSError, ValueError):
        return ""


def _entry_points(distribution: Distribution, folder: Path) -> Iterator[tuple[Kind, EntryPoint]]:
    """The entry points in our groups; a line that is not `name = value` comes with an empty value."""
    text = _text(distribution, "entry_points.txt")
    if not text:
        try:
            text = (folder / "entry_points.txt").read_bytes().decode(errors="replace")
        except OSError:
            return
    kinds = {kind.group: kind for kind in Kind}
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and line[0] not in "#;" and group in kinds:
            name, _, value = map(str.strip, line.partition("="))
            yield kinds[group], EntryPoint(name=name, value=value, group=group)


def _installation(
    distribution: Distribution, folder: Path, copies: list[Path], entry_points: tuple[EntryPoint, ...]
) -> Installation:
    name = _name_of(folder)
    try:
        metadata: Mapping[str, Any] = dict(distribution.metadata.items())  # type: ignore[attr-defined]
    except Exception:  # whatever a malformed METADATA does to the parser, the others must be listed
        metadata = {}
    beside = [copy for copy in copies if copy.parent == folder.parent]
    project = _project(distribution, folder)
    # setuptools leaves an `.egg-info` folder in the source tree of an editable installation.
    elsewhere = [copy for copy in copies if project is None or not copy.is_relative_to(project)]
    notes = []
    if name not in FIRST_PARTY and (other := resembled(name)):
        notes.append(f"not by the authors of {other}, whose name it resembles")
    if elsewhere:
        notes.append(f"another copy, not used, lies in {printable(elsewhere[0].parent)}")
    return Installation(
        metadata=distribution,
        name=printable(name, 80),
        version=printable(metadata.get("Version") or "unknown", 40),
        folder=folder,
        entry_points=entry_points,
        summary=printable(metadata.get("Summary") or ""),
        licence=_licence(distribution, metadata),
        project=project,
        problem=_problem(name, str(metadata.get("Name") or ""), folder, beside),
        note="; ".join(notes),
    )


def _licence(distribution: Distribution, metadata: Mapping[str, Any]) -> str:
    """What the authors state: an SPDX expression (PEP 639), the older free text, or a classifier."""
    stated = metadata.get("License-Expression") or metadata.get("License")
    if not stated:
        try:
            classifiers = distribution.metadata.get_all("Classifier") or []
        except Exception:  # as above
            classifiers = []
        stated = "; ".join(c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: "))
    return printable(stated, 80)


def _problem(name: str, stated: str, folder: Path, beside: list[Path]) -> tuple[str, str] | None:
    where = printable(folder)
    if not is_name(name):
        return (
            "its distribution's name is not made of letters, digits, '.', '_' and '-'",
            f"Uninstall it, or delete {where}.",
        )
    if name == LOCAL:
        return (
            f"its distribution is called {LOCAL}, which stands for unpackaged files",
            f"Uninstall it: `pip uninstall {LOCAL}`.",
        )
    if beside:
        return (
            f"{name} is installed twice in the same place: {folder.name}, {beside[0].name}",
            f"Run `pip install --force-reinstall {name}`, or delete one of the two folders in "
            f"{printable(folder.parent)}.",
        )
    if normalise(stated) != name:
        return (
            f"it is installed as {name}, but calls itself {printable(stated, 80) or 'nothing at all'}",
            f"Reinstall {name} from a source you trust, or delete {where}.",
        )
    return None


def _project(distribution: Distribution, folder: Path) -> Path | None:
    if folder.suffix == ".egg-info":  # left in a source tree by `setup.py develop`
        return folder.parent
    try:
        direct = json.loads(_text(distribution, "direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable") is True:
            return Path(unquote(urlsplit(direct["url"]).path))
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    return None
