"""Importing a plugin: its faults stay its own."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec_registry import (
    API_VERSION,
    PluginConflictError,
    PluginIncompatibleError,
    PluginLoadError,
    PluginNotFoundError,
    Registry,
    Status,
)
from clipsec_registry._api import ApiRange, misfit, parse_api_range, parse_api_version
from clipsec_registry._text import printable


def load(install, code: str, value: str = "vendor_x:Plugin"):
    """Install one module with that code, load it; the registry and the record afterwards."""
    install("vendor-x", {"x": value}, {"vendor_x/__init__.py": code})
    registry = Registry()
    plugin = registry.load(registry.find("detectors", "x"))
    return plugin, registry.find("detectors", "x")


def test_a_good_plugin(install):
    """A loaded plugin is ok, and its own summary replaces the distribution's."""
    plugin, record = load(install, "class Plugin:\n    summary = 'sees all'\n    api_version = '1.0'\n")
    assert plugin.__name__ == "Plugin"
    assert (record.status, record.loaded, record.api_version) == (Status.OK, True, "1.0")
    assert record.summary == "sees all"


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (
            "\nraise RuntimeError('no licence')",
            "RuntimeError: no licence (vendor_x/__init__.py:2)",
            "Report it to",
        ),
        (
            "import sys; sys.exit(3)",
            "it called sys.exit(3) while being imported (vendor_x/__init__.py:1)",
            "Report",
        ),
        ("raise SystemExit", "it called sys.exit() while being imported (vendor_x/__init__.py:1)", "Report"),
        ("raise GeneratorExit", "GeneratorExit (vendor_x/__init__.py:1)", "Report"),
        ("assert False, 'odd'", "AssertionError: odd (vendor_x/__init__.py:1)", "Report"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded", "Report"),
        ("def (", "SyntaxError: invalid syntax (vendor_x/__init__.py:1)", "Report"),
        (
            "import no_such_module_here",
            "ModuleNotFoundError: No module named",
            "Install what provides the module no_",
        ),
        ("import vendor_x.gone", "ModuleNotFoundError: No module named 'vendor_x.gone'", "Report"),
        ("raise ModuleNotFoundError(name=5)", "ModuleNotFoundError", "Report"),
        ("class E(Exception):\n    def __str__(s): 1/0\nraise E", "E: its message cannot be shown", "Report"),
        ("raise ValueError('\\x1b[2J\\nsecond line')", "ValueError: \\x1b[2J second line", "Report"),
        ("raise ValueError('y' * 10**6)", "ValueError: yyy", "Report"),
        ("pass", "AttributeError: module 'vendor_x' has no attribute 'Plugin'", "Report"),
        ("class Plugin: pass", "it has no api_version", "state the plugin API"),
        (
            "class Plugin: api_version = 1.0",
            "its api_version is not a string like '1.0' or '>=1.0,<3.0'",
            "state the plugin API",
        ),
        (
            "class Plugin: api_version = '1'",
            "its api_version is not a string like '1.0' or '>=1.0,<3.0'",
            "state the plugin API",
        ),
        (
            "class M(type):\n    @property\n    def api_version(c): exit()\nclass Plugin(metaclass=M): pass",
            "it called sys.exit(None)",
            "Report",
        ),
    ],
)
def test_faults_become_a_status(install, code, reason, remedy):
    """Whatever an import raises is recorded with type, message and place; nothing escapes."""
    plugin, record = load(install, code)
    assert plugin is None
    assert (record.status, record.loaded) == (Status.FAILED, False)
    assert reason in record.reason
    assert len(record.reason) < 500
    assert remedy in record.remedy


TOO_NEW = (
    "Install a clipsec that offers plugin API {} (`pip install --upgrade clipsec`), or an older version of "
    "vendor-x."
)
TOO_OLD = (
    "Install a newer version of vendor-x (`pip install --upgrade vendor-x`), or a clipsec that still offers "
    "plugin API {}."
)


@pytest.mark.parametrize(
    ("version", "age", "remedy"),
    [
        ("99.0", "new", TOO_NEW.format("99.0")),
        ("1.999", "new", TOO_NEW.format("1.999")),
        (">=1.999,<3.0", "new", TOO_NEW.format("1.999")),
        ("0.9", "old", TOO_OLD.format("0.9")),
        (">=0.1,<1.0", "old", TOO_OLD.format(">=0.1,<1.0")),
    ],
)
def test_other_apis_are_incompatible(install, version, age, remedy):
    """A plugin for another API is refused with both versions, which side is behind, and what to install."""
    plugin, record = load(install, f"class Plugin: api_version = {version!r}")
    assert plugin is None
    assert record.status is Status.INCOMPATIBLE
    assert record.reason == (
        f"written for plugin API {version}; this clipsec offers {API_VERSION}, so the plugin is too {age}"
    )
    assert record.remedy == remedy


@pytest.mark.parametrize("version", ["1.0", ">=1.0,<3.0", ">=0.5, <1.1"])
def test_a_range_that_holds_our_api_fits(install, version):
    """A plugin may accept several APIs; one of them is enough, and the record shows what it stated."""
    plugin, record = load(install, f"class Plugin: api_version = {version!r}")
    assert plugin is not None
    assert (record.status, record.api_version) == (Status.OK, version)


def test_ctrl_c_is_not_a_fault(install):
    """KeyboardInterrupt ends the program, and leaves the plugin as it was."""
    install("vendor-x", {"x": "vendor_x:Plugin"}, {"vendor_x.py": "raise KeyboardInterrupt"})
    registry = Registry()
    record = registry.find("detectors", "x")
    with pytest.raises(KeyboardInterrupt):
        registry.load(record)
    assert registry.record(record).status is Status.OK


def test_strict_raises(install):
    """With `strict` a fault is an exception that carries plugin, remedy and cause, the second time too."""
    install("vendor-x", {"x": "vendor_x:Plugin"}, {"vendor_x.py": "raise RuntimeError('no licence')"})
    registry = Registry()
    record = registry.find("detectors", "x")
    with pytest.raises(PluginLoadError, match="vendor-x/x is failed: RuntimeError: no licence") as caught:
        registry.load(record, strict=True)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert (caught.value.plugin, caught.value.exit_code) == ("vendor-x/x", 2)
    with pytest.raises(PluginLoadError, match="no licence"):
        registry.load(record, strict=True)
    assert registry.load(record) is None


def test_strict_says_which_fault(install):
    """Another API and a contested name have their own exceptions."""
    install("vendor-x", {"x": "vendor_x:Plugin"}, {"vendor_x.py": "class Plugin: api_version = '2.0'"})
    install("vendor-y", {"amdet": "vendor_y:Plugin"})
    registry = Registry()
    with pytest.raises(PluginIncompatibleError):
        registry.load(registry.find("detectors", "x"), strict=True)
    [contested] = [record for record in registry.records() if record.distribution == "vendor-y"]
    with pytest.raises(PluginConflictError, match="reserved"):
        registry.load(contested, strict=True)
    assert "vendor_y" not in sys.modules


def test_output_of_an_import_goes_to_stderr(install, capsys):
    """What a plugin prints does not mix with what the program prints."""
    load(install, "print('hello' * 1000)\nclass Plugin: api_version = '1.0'")
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


def test_imported_once(install):
    """A second load gives the same object, also after a refresh."""
    install("vendor-x")
    registry = Registry()
    record = registry.find("detectors", "vendor-x")
    plugin = registry.load(record)
    registry.refresh()
    assert registry.load(record) is plugin
    assert registry.record(record).loaded


def test_uninstalled_meanwhile(install, site):
    """A record whose plugin is gone says so."""
    folder = install("vendor-x")
    registry = Registry()
    record = registry.find("detectors", "vendor-x")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    registry.refresh()
    with pytest.raises(PluginNotFoundError, match="vendor-x/vendor-x is no longer installed"):
        registry.load(record)


VERSIONS = st.tuples(st.integers(0, 9), st.integers(0, 9))


def dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


@given(VERSIONS, VERSIONS)
def test_api_rule(wanted, newest):
    """A plain version fits exactly when the major versions are equal and the minor one is not newer."""
    accepted = parse_api_range(dotted(wanted))
    problem = misfit(accepted, "x", dotted(newest), dotted((newest[0], 0)))
    assert (problem is None) == (wanted[0] == newest[0] and wanted[1] <= newest[1])


@given(VERSIONS, VERSIONS, VERSIONS, VERSIONS)
def test_api_ranges_fit_when_they_meet(first, end, oldest, newest):
    """Two ranges fit exactly when some version lies in both; an empty one is no range."""
    accepted = parse_api_range(f">={dotted(first)},<{dotted(end)}")
    assert (accepted is None) == (first >= end)
    if accepted is not None and oldest <= newest:
        assert accepted == ApiRange(f">={dotted(first)},<{dotted(end)}", first, end)
        # If any version lies in both, the later of the two beginnings does.
        common = max(first, oldest) < end and max(first, oldest) <= newest
        assert (misfit(accepted, "x", dotted(newest), dotted(oldest)) is None) == common


ODD = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.from_regex(r"[0-9]{1,7}\.[0-9]{1,7}"))


@given(ODD)
def test_api_versions_are_strict(version):
    """Only plain MAJOR.MINOR strings are versions, and they come back as written."""
    parsed = parse_api_version(version)
    if parsed is not None:
        assert version == f"{parsed[0]}.{parsed[1]}"


@given(st.text(st.characters(exclude_categories=())), st.integers(10, 400))
def test_printable_text_is_printable(text, limit):
    """Any text becomes one bounded line without invisible characters, and stays as it is the second time."""
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert printable(line, limit) == line.strip()
