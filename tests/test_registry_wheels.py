"""Real plugin wheels, good and bad, built, installed by pip and listed in a process of their own.

Each is a small package under `fixtures/plugins/`. All are installed side by side, so every row of the table
also shows that the others stand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

Done = subprocess.CompletedProcess[str]

SOURCES = Path(__file__).parent / "fixtures" / "plugins"
RENAMED = ("renamed_entry_point_before", "renamed_entry_point_after")

BUILD = """
import os, pathlib, sys
from hatchling.build import build_wheel
for source in sys.argv[2:]:
    wheels = pathlib.Path(sys.argv[1], pathlib.Path(source).name)
    wheels.mkdir(parents=True)
    os.chdir(source)
    build_wheel(str(wheels))
"""

CLIPSEC = "from clipsec.cli import main; main()"

# fixture, plugin, status and reason before and after `--load`
TABLE = [
    ("good", "vendor-good/steady", ("ok", ""), ("ok", "")),
    (
        "raises_at_import",
        "vendor-raises/licensed",
        ("ok", ""),
        ("failed", "RuntimeError: the licence server did not answer (vendor_raises/_licence.py:2)"),
    ),
    (
        "exits_at_import",
        "vendor-exits/leaver",
        ("ok", ""),
        ("failed", "it called sys.exit(3) while being imported (vendor_exits/__init__.py:5)"),
    ),
    (
        "missing_dependency",
        "vendor-hungry/hungry",
        ("ok", ""),
        (
            "failed",
            "ModuleNotFoundError: No module named 'a_module_that_nobody_has' (vendor_hungry/__init__.py:3)",
        ),
    ),
    (
        "escapes_in_message",
        "vendor-message/messenger",
        ("ok", ""),
        (
            "failed",
            "RuntimeError: \\x1b[2J\\x1b]0;owned\\x07[bold red]all is well[/bold red] clean "
            "(vendor_message/__init__.py:3)",
        ),
    ),
    ("prints_at_import", "vendor-loud/chatty", ("ok", ""), ("ok", "")),
    ("without_api_version", "vendor-silent/silent", ("ok", ""), ("failed", "it has no api_version")),
    (
        "future_api",
        "vendor-future/visionary",
        ("ok", ""),
        (
            "incompatible",
            "written for plugin API 99.0; this clipsec offers 1.0, so the plugin is too new",
        ),
    ),
    *(
        (fixture, plugin, row, row)
        for fixture, plugin, row in [
            (
                "shadows_first_party",
                "helpful-tools/clip-inspector",
                ("conflicting", "the name Clip_Inspector is reserved for clipsec-clip-inspector"),
            ),
            (
                "same_name_one",
                "vendor-one/spectral",
                ("conflicting", "vendor-two/spectral has the same name"),
            ),
            (
                "same_name_two",
                "vendor-two/spectral",
                ("conflicting", "vendor-one/spectral has the same name"),
            ),
            (
                "broken_value",
                "vendor-broken/unparsable",
                ("failed", "its entry point not a reference, at all is not of the form module:attribute"),
            ),
            (
                "escapes_in_metadata",
                "vendor-escapes/[red]loud[/red]",
                ("failed", "its name is not made of letters, digits, '.', '_' and '-'"),
            ),
        ]
    ),
]


def python(*arguments: str | Path, site: Path | None = None, **environment: str) -> Done:
    """Run this interpreter, with `site` before everything else on its path."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("CLIPSEC_LOCK", "PYTHONPATH")}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**inherited, **environment},
        cwd=None if site is None else site.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def install(site: Path, wheels: Sequence[Path]) -> None:
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    done = python("-m", "pip", "install", *options, "--upgrade", "--target", site, *wheels)
    assert done.returncode == 0, done.stderr


def clipsec_list(site: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    done = python("-c", CLIPSEC, "list", "--json", *arguments, site=site)
    assert done.returncode == 0, done.stderr
    return {row["canonical_name"]: row for row in json.loads(done.stdout)["plugins"]}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each fixture, made by its own build backend, without network."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = sorted(path.parent for path in SOURCES.glob("*/pyproject.toml"))
    done = python("-c", BUILD, folder, *sources)
    assert done.returncode == 0, done.stderr
    return {path.parent.name: path for path in folder.glob("*/*.whl")}


@pytest.fixture(scope="module")
def site(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fixture installed side by side, but for the two halves of the renamed one."""
    site = tmp_path_factory.mktemp("all") / "site"
    install(site, [wheel for name, wheel in wheels.items() if name not in RENAMED])
    return site


@pytest.fixture(scope="module")
def listed(site: Path) -> dict[str, dict[str, Any]]:
    return clipsec_list(site)


@pytest.fixture(scope="module")
def loaded(site: Path) -> dict[str, dict[str, Any]]:
    return clipsec_list(site, "--load")


def test_the_table_is_complete():
    """Every fixture has a row, or a test of its own below."""
    assert {fixture for fixture, *_ in TABLE} | set(RENAMED) == {path.name for path in SOURCES.iterdir()}


@pytest.mark.parametrize(("fixture", "plugin", "before", "after"), TABLE, ids=[row[0] for row in TABLE])
def test_table(listed, loaded, fixture, plugin, before, after):
    """Each plugin has its status and reason, before and after it was imported, and a remedy if not ok."""
    for rows, (status, reason) in ((listed, before), (loaded, after)):
        row = rows[plugin]
        assert (row["status"], row["reason"]) == (status, reason)
        assert bool(row["remedy"]) == (status != "ok")
        assert row["loaded"] == (rows is loaded and status == "ok")
        assert row["licence"] == "MIT"
        assert not row["first_party"]


def test_the_owner_keeps_its_name(listed):
    """Beside a plugin that offers its name, the first-party detector is as it was."""
    row = listed["clipsec-clip-inspector/clip-inspector"]
    assert (row["status"], row["first_party"]) == ("ok", True)


def test_names_resolve_as_listed(site):
    """The bare name finds the first party, a shared one nobody, and canonical names find everybody."""
    script = """
from clipsec_registry import PluginConflictError, Registry
registry = Registry("detectors")
print(registry.find("detectors", "clip-inspector").distribution)
try:
    registry.find("detectors", "spectral")
except PluginConflictError as error:
    print(error)
print(registry.load(registry.find("detectors", "vendor-two/spectral"), strict=True).summary)
print(registry.load(registry.find("detectors", "helpful-tools/clip-inspector"), strict=True).summary)
print(*(type(problem).__name__ for problem in registry.require(["steady", "leaver", "nobody"], load=True)))
"""
    done = python("-c", script, site=site)
    assert done.stdout.splitlines() == [
        "clipsec-clip-inspector",
        "spectral could be any of: vendor-one/spectral, vendor-two/spectral",
        "Spectral, by vendor two",
        "Always says clean",
        "PluginLoadError PluginNotFoundError",
    ], done.stderr


def test_escapes_do_not_reach_the_terminal(site):
    """On a terminal, what plugins say appears as text: no control sequence but the table's own colours."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": "250", "TERM": "xterm-256color"}
    done = python("-c", CLIPSEC, "list", "--load", "--kind", "repairs", site=site, **terminal)
    assert done.returncode == 0, done.stderr
    assert "\x1b[3" in done.stdout
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\u202e", "\r"):
        assert sequence not in done.stdout
    for text in ("[red]loud[/red]", "\\x1b[2J\\x1b]0;owned\\x07[bold red]all is well[/bold red]"):
        assert text in done.stdout


def test_listing_imports_no_plugin(site):
    """None of the installed packages is among the modules of the process that listed them."""
    script = "import sys; from clipsec_registry import Registry; Registry().records(); print(*sys.modules)"
    modules = python("-c", script, site=site).stdout.split()
    packages = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert "vendor_good" in packages
    assert not packages & {module.partition(".")[0] for module in modules}


def test_only_the_trusted_is_imported(site, tmp_path):
    """Under a lock of one distribution, all others are shown as untrusted and none of them is imported."""
    lock = tmp_path / "clipsec.lock"
    done = python("-c", CLIPSEC, "plugin", "trust", "vendor-good", "--lock", lock, site=site)
    assert done.returncode == 0, done.stderr
    assert "trusted vendor-good 1.2.0 (4 files)" in done.stdout
    rows = clipsec_list(site, "--load", "--lock", str(lock))
    assert (rows["vendor-good/steady"]["status"], rows["vendor-good/steady"]["loaded"]) == ("ok", True)
    others = {name: row["status"] for name, row in rows.items() if name != "vendor-good/steady"}
    assert set(others.values()) == {"untrusted"}
    assert len(others) == len(rows) - 1 >= len(TABLE) - 1


def test_reinstalled_with_a_renamed_entry_point(wheels, tmp_path):
    """Right after a reinstall, the new name is listed and the old one gone: in the same process and in a new
    one; and a lock written before refuses it, naming the file.
    """
    site, lock = tmp_path / "site", tmp_path / "clipsec.lock"
    before, after = (wheels[name] for name in RENAMED)
    install(site, [before])
    script = f"""
import subprocess, sys
from clipsec_registry import Registry, write_lock
def names():
    return [record.name for record in registry.records() if record.distribution == "vendor-renamed"]
registry = Registry()
write_lock({str(lock)!r}, [registry.find("detectors", "name-before")])
print(*names())
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
    "--disable-pip-version-check", "--upgrade", "--target", {str(site)!r}, {str(after)!r}], check=True)
registry.refresh()
print(*names(), registry.load(registry.find("detectors", "name-after"), strict=True).summary)
"""
    done = python("-c", script, site=site)
    assert done.stdout.splitlines() == ["name-before", "name-after Goes by another name"], done.stderr
    assert [name for name in clipsec_list(site) if "renamed" in name] == ["vendor-renamed/name-after"]
    row = clipsec_list(site, "--lock", str(lock))["vendor-renamed/name-after"]
    assert row["status"] == "untrusted"
    assert row["reason"].endswith("changed vendor_renamed-1.0.dist-info/entry_points.txt")
