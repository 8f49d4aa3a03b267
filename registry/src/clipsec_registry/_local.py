"""Plugins in one unpackaged file, as `--plugin-path FILE` names it: found without running it, loaded as read.

Everything from such a file is called `local/NAME`, so that no report can take it for an installed plugin.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, EntryPoint
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from clipsec_registry._discovery import Installation, LocalFile, Offer
from clipsec_registry._errors import PluginConflictError, PluginNotFoundError
from clipsec_registry._names import LOCAL
from clipsec_registry._records import Kind
from clipsec_registry._text import printable

_KINDS = {
    frozenset({"detect"}): Kind.DETECTORS,
    frozenset({"poison"}): Kind.ATTACKS,
    frozenset({"measure"}): Kind.INTERFACES,
    frozenset({"repair"}): Kind.REPAIRS,
    frozenset({"matches", "load"}): Kind.MODELS,
    frozenset({"render"}): Kind.REPORTS,
}
"""The methods that make a class a plugin of a kind."""


def read_local(paths: Iterable[str | os.PathLike[str]]) -> list[Offer]:
    """The plugins of unpackaged files; their code is parsed and not run.

    A plugin is a public top-level class that states `api_version` and has the method of a kind, itself or
    through a class of the same file. `ClassPrior` is called `class-prior`.

    Raises `PluginNotFoundError` for a file that cannot be read, is not Python or holds no plugin, and
    `PluginConflictError` when two plugins would have the same name.
    """
    files = list({os.path.realpath(path): Path(path) for path in paths}.values())
    offers = [offer for path in files for offer in _offers(path)]
    seen: dict[tuple[Kind, str], Offer] = {}
    for offer in offers:
        other = seen.setdefault((offer.kind, offer.entry_point.name), offer)
        if other is not offer:
            where = " and ".join(dict.fromkeys(printable(each.by.folder) for each in (other, offer)))
            raise PluginConflictError(
                f"two {offer.kind} would be called {LOCAL}/{offer.entry_point.name}, in {where}",
                remedy="Rename one of the two classes.",
            )
    return offers


def import_local(file: LocalFile, entry_point: EntryPoint) -> Any:
    """Run the file as it was read, once, and return the class. Raises whatever its code raises.

    No bytecode is written beside it, and its folder is not put on the path: one file means one file.
    """
    module = sys.modules.get(entry_point.module)
    if module is None:
        module = module_from_spec(ModuleSpec(entry_point.module, None, origin=str(file.path)))
        module.__file__ = str(file.path)
        sys.modules[entry_point.module] = module
        try:
            exec(compile(file.content, str(file.path), "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[entry_point.module]
            raise
    return getattr(module, entry_point.attr)


class _Unpackaged(Distribution):
    """There is no metadata."""

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(path)


def _offers(path: Path) -> list[Offer]:
    path = Path(os.path.abspath(path))
    where = printable(path)
    try:
        if path.suffix != ".py":
            raise OSError("its name does not end in .py")
        file = LocalFile(path, content := path.read_bytes(), hashlib.sha256(content).hexdigest())
        tree = ast.parse(file.content)
    except OSError as error:
        raise PluginNotFoundError(
            f"the plugin file {where} cannot be read: {printable(error.strerror or error)}",
            remedy="Name a Python file with --plugin-path; an installed plugin needs none.",
        ) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = printable(error.msg if isinstance(error, SyntaxError) else error)
        raise PluginNotFoundError(
            f"the plugin file {where} is not Python: {reason}{line}", remedy="Correct the file."
        ) from error
    by = Installation(
        metadata=_Unpackaged(),
        name=LOCAL,
        version=f"sha256:{file.sha256}",
        folder=path,
        entry_points=(),
        summary="",
        licence="",
        project=None,
        problem=None,
        note=f"unpackaged file {where}",
        local=file,
    )
    module = f"clipsec_local_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{file.sha256[:16]}"
    offers = [
        Offer(EntryPoint(_name(attribute), f"{module}:{attribute}", kind.group), kind, by)
        for attribute, kind in _plugins(tree)
    ]
    if not offers:
        raise PluginNotFoundError(
            f"the plugin file {where} holds no plugin",
            remedy="Write a top-level class in it that states `api_version` and has one of the methods "
            "detect, poison, measure, repair, render, or matches and load.",
        )
    return offers


def _name(attribute: str) -> str:
    """`ClassPrior` as `class-prior`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+", "-", attribute).strip("-").lower()


def _plugins(tree: ast.Module) -> Iterator[tuple[str, Kind]]:
    members: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = (members.get(base.id, set()) for base in node.bases if isinstance(base, ast.Name))
            members[node.name] = set(_members(node)).union(*bases)
            if node.name[0] != "_" and "api_version" in members[node.name] and node.name.isascii():
                for methods, kind in _KINDS.items():
                    if methods <= members[node.name]:
                        yield node.name, kind


def _members(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield from _targets(statement.target)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                yield from _targets(target)


def _targets(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield node.id
