"""Under a lock, Python executes only what the lock lists, also where it would not look at the file compared.

Comparing files before an import is not enough: Python executes `__pycache__/x.cpython-311.pyc` in place of
`x.py` whenever its header names the size and time of `x.py`, and installers record no digest of it; and a
module that a plugin imports an hour later may have changed by then. So modules of a locked distribution are
found by a finder of ours, which never reads a bytecode cache and compares each file when it is executed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    ExtensionFileLoader,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
    all_suffixes,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import attrs

from clipsec_registry._files import paths_of
from clipsec_registry._text import printable

if TYPE_CHECKING:
    from clipsec_registry._discovery import Installation


@attrs.frozen
class _Guarded:
    """The modules of one distribution."""

    tops: frozenset[str]
    """Top-level names."""
    digests: Mapping[str, str]
    """SHA-256 by real path."""
    packages: tuple[str, ...]
    """Real paths of the package folders; what lies in them unlisted is not imported."""


class _Guard(MetaPathFinder):
    """First on `sys.meta_path`: lets the others find a module, and replaces what would execute it."""

    def __init__(self) -> None:
        self.distributions: dict[str, _Guarded] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        guarded = [entry for entry in self.distributions.values() if top in entry.tops]
        if not guarded:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None and finder is not self else None
            if spec is not None:
                return _checked(spec, guarded)
        return None


_guard = _Guard()


def guard(installation: Installation, files: Mapping[str, str]) -> None:
    """From now on, import the modules of this distribution only as listed: SHA-256 by name."""
    suffixes = tuple(all_suffixes())
    digests, tops, packages = {}, set(), set()
    for name, path in paths_of(installation).items():
        if name in files and name.endswith(suffixes):
            real = os.path.realpath(path)
            digests[real] = files[name]
            tops.add(name.partition("/")[0].partition(".")[0])
            if "/" in name and path.name.partition(".")[0] == "__init__":
                packages.add(os.path.dirname(real) + os.sep)
    _guard.distributions[installation.name] = _Guarded(frozenset(tops), digests, tuple(packages))
    if _guard not in sys.meta_path:
        sys.meta_path.insert(0, _guard)


def release(installation: Installation) -> None:
    """Import the modules of this distribution as Python does."""
    if _guard.distributions.pop(installation.name, None) and not _guard.distributions:
        sys.meta_path.remove(_guard)


def _checked(spec: ModuleSpec, guarded: Sequence[_Guarded]) -> ModuleSpec:
    if not spec.has_location or spec.origin is None:
        return spec
    real = os.path.realpath(spec.origin)
    digest = next((entry.digests[real] for entry in guarded if real in entry.digests), None)
    if digest is None:
        if not any(real.startswith(entry.packages) for entry in guarded):
            return spec  # of another distribution in the same namespace package
        digest = "not listed"
    loader: Any = spec.loader
    kind: Any
    for kind, replacement in _LOADERS.items():
        if isinstance(loader, kind):
            ours = replacement(loader.name, loader.path)
            ours.expected = digest
            spec.loader = ours
            return spec
    _verified(spec.origin, digest)
    return spec


def _verified(path: str, expected: str) -> bytes:
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        what = "is not listed in the lock" if expected == "not listed" else "changed since it was trusted"
        raise ImportError(f"{printable(path)} {what}", path=path)
    return data


class _Source(SourceFileLoader):
    """Compiles the source each time; reads no `__pycache__`, writes none."""

    expected = "not listed"

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(_verified(path, self.expected), path)


class _Bytecode(SourcelessFileLoader):
    expected = "not listed"

    def get_code(self, fullname: str) -> CodeType | None:
        _verified(self.get_filename(fullname), self.expected)
        return super().get_code(fullname)


class _Extension(ExtensionFileLoader):
    expected = "not listed"

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _verified(self.path, self.expected)
        return super().create_module(spec)


_LOADERS: dict[type, Any] = {
    SourceFileLoader: _Source,
    SourcelessFileLoader: _Bytecode,
    ExtensionFileLoader: _Extension,
}
