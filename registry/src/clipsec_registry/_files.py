"""Which files a plugin consists of, their digests, and which of them an import would execute first."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder, all_suffixes
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import attrs

from clipsec_registry._discovery import Installation
from clipsec_registry._names import module_of
from clipsec_registry._text import printable

SIGNATURE_NAME = "clipsec-signature.json"
"""A vendor's signature in a wheel's metadata folder: over all other files, as it cannot cover itself."""

ERROR_RATES = "error_rates"
"""The folder of a plugin's package with what was measured of its detectors, a card each."""

# Written by installers, not by the authors: they differ between two installations of the same wheel.
_BY_INSTALLER = frozenset(
    {
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        SIGNATURE_NAME,
        "uv_build.json",
        "uv_cache.json",
    }
)


@attrs.frozen
class Location:
    """Where the code of a module comes from."""

    origin: Path | None
    """The file that an import would execute first; None for built-in and for bare namespace packages."""
    home: Path | None
    """That file, or the package folder it opens."""
    name: str
    """`home` relative to the folder on the path, as in a RECORD: `package` or `namespace/module.py`."""


def locate(module: str) -> Location | None:
    """Find a module as an import would, importing nothing; namespace packages are walked through.

    Returns None when its top-level package does not exist.
    """
    first, *rest = module.split(".")
    try:
        spec = find_spec(first)
    except Exception:  # e.g. a broken import hook, or a module already imported that has no spec
        return None
    if spec is None:
        return None
    name = first
    while spec.submodule_search_locations is not None and not spec.has_location and rest:
        child = PathFinder.find_spec(f"{name}.{rest[0]}", list(spec.submodule_search_locations))
        if child is None:
            break
        spec, name = child, child.name
        rest.pop(0)
    if not spec.has_location or spec.origin is None:
        return Location(None, None, name)
    origin = Path(os.path.abspath(spec.origin))
    parents = name.split(".")[:-1]
    home = origin if spec.submodule_search_locations is None else origin.parent
    return Location(origin, home, "/".join([*parents, home.name]))


def owns(installation: Installation, location: Location) -> bool:
    """Whether the code at `location` belongs to the installed distribution."""
    if location.origin is None:
        return False
    if installation.project is not None:
        return Path(os.path.realpath(location.origin)).is_relative_to(os.path.realpath(installation.project))
    root = installation.folder.parent
    names = recorded(installation)
    if names is None:
        return location.origin.is_relative_to(root)
    if os.path.relpath(location.origin, root) in map(os.path.normpath, names):
        return True
    # The same file through a linked folder.
    candidates = [root / name for name in names if PurePosixPath(name).name == location.origin.name]
    return any(_same(candidate, location.origin) for candidate in candidates)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def recorded(installation: Installation) -> list[str] | None:
    """The files that the installer recorded and that an import could reach; None without a readable RECORD.

    Left out: what the installer itself wrote, bytecode caches, and everything outside the site folder
    (console scripts, whose first line differs from machine to machine).
    """
    try:
        text = installation.metadata.read_text("RECORD")
        rows = list(csv.reader((text or "").splitlines()))
    except (OSError, ValueError, csv.Error):
        return None
    names = sorted({str(PurePosixPath(row[0])) for row in rows if row and row[0]})
    return [name for name in names if counts(PurePosixPath(name), installation.folder.name)] or None


def counts(path: PurePosixPath, info: str) -> bool:
    """Whether a file of a distribution, whose metadata folder is called `info`, is digested."""
    if path.is_absolute() or ".." in path.parts or "__pycache__" in path.parts:
        return False
    return not (path.parent.name == info and path.name in _BY_INSTALLER)


def digests(installation: Installation) -> dict[str, str]:
    """The SHA-256 of every file of `paths_of`, by name, sorted; without those that cannot be read.

    Of an unpackaged file: its own, as it was read.
    """
    if installation.local is not None:
        return {_encodable(installation.local.path.name): installation.local.sha256}
    found = {name: sha256_of(path) for name, path in paths_of(installation).items()}
    return {name: digest for name, digest in found.items() if digest is not None}


def paths_of(installation: Installation) -> dict[str, Path]:
    """Every file of an installed distribution that counts, by name, sorted.

    A regular installation: the recorded files, and importable files that lie unrecorded in its packages (an
    extension module beside `x.py` would be imported in its place). An editable one, or one without a RECORD:
    every file of the packages that its entry points name, and the list of these.
    """
    root = installation.folder.parent
    names = None if installation.project is not None else recorded(installation)
    paths: dict[str, Path] = {}
    if names is not None:
        paths = {name: root / name for name in names}
        for package in _packages(names):
            for name, path in _walk(root / package, package):
                if path.name.endswith(tuple(all_suffixes())):
                    paths.setdefault(name, path)
    else:
        declared = installation.folder / "entry_points.txt"
        paths["entry_points.txt"] = declared
        modules = {module for point in installation.entry_points if (module := module_of(point.value))}
        for module in sorted(modules):
            location = locate(module)
            if location is not None and location.home is not None:
                if location.home.is_dir():
                    paths |= dict(_walk(location.home, location.name))
                else:
                    paths[location.name] = location.home
    return {_encodable(name): path for name, path in sorted(paths.items())}


def startup_files(installation: Installation) -> list[str]:
    """Recorded files that Python executes at every start, whatever any lock says.

    `.pth` files in the site folder may hold code; `sitecustomize` and `usercustomize` are imported. The one
    `.pth` file of an editable installation, which names its folder, is not among them.
    """
    if installation.project is not None:
        return []
    names = recorded(installation) or []
    customs = ("sitecustomize", "usercustomize")
    return [n for n in names if (n.endswith(".pth") and "/" not in n) or re.split("[./]", n)[0] in customs]


def total(files: Mapping[str, str]) -> str:
    """One digest for all of them, `sha256:...`: over the lines `DIGEST  NAME`, sorted by name."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def is_measurement(name: str) -> bool:
    """Whether a file of a distribution tells what was measured of it: a card in `error_rates/`.

    Nothing imports it, and a check does the same with and without it.
    """
    path = PurePosixPath(name)
    return path.parent.name == ERROR_RATES and path.suffix == ".json"


def difference(expected: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Which files changed, were added and are missing, by name; empty when all digests are equal."""
    parts = {
        "changed": [name for name in sorted(files) if expected.get(name, files[name]) != files[name]],
        "added": sorted(set(files) - set(expected)),
        "missing": sorted(set(expected) - set(files)),
    }
    return "; ".join(f"{verb} {_some(names)}" for verb, names in parts.items() if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name, 120) for name in names[:3]) + more


def _packages(names: list[str]) -> list[str]:
    """The outermost folders that hold a recorded `__init__` file."""
    folders = sorted(
        {str(PurePosixPath(n).parent) for n in names if PurePosixPath(n).name.split(".")[0] == "__init__"}
    )
    outermost: list[str] = []
    for folder in folders:
        if not any(PurePosixPath(folder).is_relative_to(outer) for outer in outermost):
            outermost.append(folder)
    return [folder for folder in outermost if folder != "."]


def _walk(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        folders[:] = [] if real in seen else sorted(f for f in folders if f != "__pycache__" and f[0] != ".")
        if real in seen:
            continue
        seen.add(real)
        for file in sorted(files):
            path = Path(current, file)
            yield str(PurePosixPath(name, path.relative_to(folder).as_posix())), path


def sha256_of(path: Path) -> str | None:
    """None for a file that is missing or cannot be read; a device or a pipe is never opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def _encodable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
