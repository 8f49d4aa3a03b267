"""Render a plugin package: names checked first, files written whole or not at all."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from clipsec import __version__
from clipsec.errors import StoreError, UsageError
from clipsec_registry import API_VERSION, FIRST_PARTY, Kind, printable, reserved_for

KINDS: Mapping[str, Kind] = {
    "attack": Kind.ATTACKS,
    "detector": Kind.DETECTORS,
    "interface": Kind.INTERFACES,
    "loader": Kind.MODELS,
    "repair": Kind.REPAIRS,
    "report": Kind.REPORTS,
}
"""What people call a kind, and what the registry calls it."""

_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
"""PEP 508, and begins with a letter, as a Python module must."""
_FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    ".gitignore": "gitignore.j2",
    ".github/workflows/test.yml": "test.yml.j2",
    "src/{module}/__init__.py": "init.py.j2",
    "src/{module}/_{kind}.py": "{kind}.py.j2",
    "tests/test_{module}.py": "test_{kind}.py.j2",
}
_CHOOSE = "Choose another name, one that begins with your own or your company's."


def new_plugin(kind: str, name: str, parent: str | Path = ".") -> Path:
    """Write the package `parent/name` with one working plugin of a kind (see `KINDS`); returns the folder.

    `name` is the plugin's name and that of its distribution; the module is called like it, with underscores.

    Raises `UsageError` for a name that cannot be used or is taken, `StoreError` when the disk will not take
    it. Either way nothing is left behind.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind {printable(kind)}", remedy=f"Choose one of {', '.join(KINDS)}.")
    module = _checked(name)
    parent = Path(parent)
    folder = parent / name
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists already", remedy="Choose another name, or another folder with -o.")
    words = {
        "kind": kind,
        "name": name,
        "module": module,
        "class_name": "".join(part[:1].upper() + part[1:] for part in module.split("_")),
        "group": KINDS[kind].group,
        "plural": KINDS[kind].value,
        "api_version": API_VERSION,
        "version": __version__,
    }
    texts = _render(words)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        try:
            for place, text in texts.items():
                (temporary / place).parent.mkdir(parents=True, exist_ok=True)
                (temporary / place).write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror or error}",
            remedy="Choose another folder with -o, or make it writable.",
        ) from error
    return folder


def _checked(name: str) -> str:
    """The module's name. Raises `UsageError`."""
    shown = printable(name, 80)
    module = re.sub(r"[-_.]+", "_", name).lower()
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{shown!r} is not a name for a package",
            remedy="Begin with a letter and end with a letter or a digit; between them '-', '_' and '.' too.",
        )
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise UsageError(f"the module would be called {module}, which is Python's own", remedy=_CHOOSE)
    distribution = module.replace("_", "-")
    if distribution in FIRST_PARTY or distribution == "local" or reserved_for(name) is not None:
        raise UsageError(f"the name {shown} is kept for clipsec's own packages and plugins", remedy=_CHOOSE)
    if find_spec(module) is not None:
        raise UsageError(f"a module called {module} is installed already", remedy=_CHOOSE)
    return module


def _render(words: Mapping[str, str]) -> dict[str, str]:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipsec.scaffold"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return {
        place.format(**words): environment.get_template(template.format(**words)).render(words)
        for place, template in _FILES.items()
    }
