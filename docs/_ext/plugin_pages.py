"""One page a plugin, written at build time from what the installed plugins state of themselves.

The facts are those of `clipsec list` and the plugin's class: kind, distribution, licence, needs, options with
their defaults and docstrings, references. Pages lie in `docs/plugins/`, which is not committed.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import attrs

from clipsec_registry import PluginRecord, Registry

KINDS = {
    "detectors": "detector",
    "attacks": "attack",
    "interfaces": "interface",
    "repairs": "repair",
    "models": "model loader",
    "reports": "report format",
}


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_restructured_text)
    return {"parallel_read_safe": True}


def as_restructured_text(
    app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Docstrings introduce an indented example with a plain colon or full stop; reStructuredText wants two
    colons."""
    inside = False
    for index in range(len(lines) - 2, -1, -1):
        inside = lines[index + 1].startswith("    ") or (inside and not lines[index + 1])
        if inside and lines[index] and not lines[index].startswith(" "):
            # The line before an indented block, with or without an empty one between.
            lines[index] = lines[index].removesuffix(".").removesuffix(":") + "::"
            if lines[index + 1]:
                lines.insert(index + 1, "")
            inside = False


def write_pages(app: Any) -> None:
    """Write `plugins/index.md` and a page for every first-party plugin that loads."""
    folder = Path(app.srcdir) / "plugins"
    folder.mkdir(exist_ok=True)
    pages: dict[str, str] = {}
    rows = []
    for group, kind in KINDS.items():
        registry = Registry(group)
        for record in registry.records():
            plugin = registry.load(record) if record.first_party else None
            if plugin is not None:
                name = f"{kind.replace(' ', '-')}-{record.name}"
                pages[name] = page(record, kind, plugin)
                rows.append(f"| [{record.name}]({name}.md) | {kind} | {plugin.summary} |")
    for card in sorted((Path(app.srcdir).parent / "plugins").glob("*/CARD_*.md")):
        pages[card.stem.lower().replace("_", "-")] = card.read_text(encoding="utf-8")
    index = "\n".join(
        [
            "# Plugins",
            "",
            "One page each, generated from the installed plugins; and the cards of the reference models.",
            "",
            "| name | kind | what it does |",
            "| --- | --- | --- |",
            *rows,
            "",
            "```{toctree}",
            ":maxdepth: 1",
            "",
            *sorted(pages),
            "```",
            "",
        ]
    )
    for name, text in {**pages, "index": index}.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page(record: PluginRecord, kind: str, plugin: Any) -> str:
    """The page of one plugin, as MyST markdown."""
    lines = [f"# {record.name}", "", (inspect.getdoc(plugin) or plugin.summary), ""]
    facts = {
        "kind": kind,
        "distribution": f"`{record.distribution}`",
        "API version": f"`{plugin.api_version}`",
        "needs": ", ".join(sorted(getattr(plugin, "needs", ()))) or "nothing beside the model",
        "references": ", ".join(getattr(plugin, "references", ())) or "none",
    }
    lines += ["| fact | value |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in facts.items())]
    options = getattr(plugin, "options", None)
    if options is not None and attrs.has(options) and attrs.fields(options):
        told = field_docs(options)
        lines += ["", "## Options", "", "| option | default | meaning |", "| --- | --- | --- |"]
        lines += [
            f"| `{field.name}` | `{default_of(field)}` | {told.get(field.name, '')} |"
            for field in attrs.fields(options)
        ]
    return "\n".join([*lines, ""])


def default_of(field: attrs.Attribute[Any]) -> str:
    """The default as a user would type it."""
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory() if not default.takes_self else "computed"
    return f"{default:.6g}" if isinstance(default, float) else str(default)


def field_docs(options: type) -> dict[str, str]:
    """The string under each field of the class and of those it inherits from, in one line."""
    told: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        try:
            source = inspect.getsource(kind)
        except (OSError, TypeError):
            continue
        found = re.findall(r'^    (\w+): [^\n]*(?:\n        [^\n]*)*?\n    """(.*?)"""', source, re.M | re.S)
        told |= {name: " ".join(text.split()) for name, text in found}
    return told
