"""Under a lock, what is executed is what was compared: no bytecode cache, no file that changed in between."""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from clipsec_registry import Lock, Registry, Status, check

LAZY = """
class Plugin:
    summary, api_version = "imports the rest later", "1.0"
    def detect(self):
        from vendor_x import _rest
        return _rest.ANSWER
"""


def lock_of(distribution: str) -> Lock:
    return Lock.of([r for r in Registry().records() if r.distribution == distribution])


def load(lock: Lock | None, name: str = "vendor-x"):
    registry = Registry("detectors", lock=lock)
    return registry.load(registry.find("detectors", name), strict=True)


def poison(source: Path, code: str) -> None:
    """Put other bytecode where Python looks first, under the source's own size and time."""
    honest = source.read_bytes()
    stamp = source.stat()
    source.write_bytes(code.encode().ljust(len(honest), b"\n"))
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    py_compile.compile(str(source), cfile=cache_from_source(str(source)), doraise=True)
    source.write_bytes(honest)
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.fixture
def lazy(install, site: Path) -> Path:
    install("vendor-x", files={"vendor_x/__init__.py": LAZY, "vendor_x/_rest.py": "ANSWER = 'honest'\n" * 3})
    return site / "vendor_x"


def test_poisoned_bytecode_is_not_executed(lazy, monkeypatch):
    """Python alone would execute a cache that names the source's size and time; under a lock it does not."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    poison(lazy / "_rest.py", "ANSWER = 'poisoned'")
    plugin = load(None)
    assert plugin().detect() == "poisoned"
    for name in ("vendor_x", "vendor_x._rest"):
        del sys.modules[name]
    lock = lock_of("vendor-x")
    assert check(Registry(lock=lock).find("detectors", "vendor-x"), lock) is None
    assert load(lock)().detect() == "honest"


def test_what_is_imported_later_is_compared_then(lazy):
    """A module that changes between loading the plugin and using it is not executed."""
    plugin = load(lock_of("vendor-x"))
    (lazy / "_rest.py").write_text("ANSWER = 'changed'")
    with pytest.raises(ImportError, match=r"_rest\.py changed since it was trusted"):
        plugin().detect()


def test_what_is_added_later_is_not_imported(lazy):
    """A file that appears in a trusted package afterwards is not imported, nor one in place of another."""
    plugin = load(lock_of("vendor-x"))
    (lazy / "_more.py").write_text("")
    with pytest.raises(ImportError, match=r"_more\.py is not listed in the lock"):
        importlib.import_module("vendor_x._more")
    (lazy / "_rest").mkdir()
    (lazy / "_rest" / "__init__.py").write_text("ANSWER = 'in place of'")
    with pytest.raises(ImportError, match="is not listed in the lock"):
        plugin().detect()


def test_bytecode_without_source_is_compared_too(install, site):
    """A plugin shipped as .pyc files is digested, and refused when one is exchanged."""
    folder = install("vendor-x")
    source = site / "vendor_x" / "__init__.py"
    compiled = source.with_suffix(".pyc")
    py_compile.compile(str(source), cfile=str(compiled), doraise=True)
    source.unlink()
    with (folder / "RECORD").open("a") as record:
        record.write("vendor_x/__init__.pyc,,\n")
    lock = lock_of("vendor-x")
    assert load(lock).summary == "does something"
    compiled.write_bytes(compiled.read_bytes() + b"\0")
    [refused] = [r for r in Registry(lock=lock).records() if r.distribution == "vendor-x"]
    assert "changed vendor_x/__init__.pyc" in refused.reason


def test_others_in_a_namespace_go_their_own_way(install):
    """Guarding one distribution of a namespace package leaves the other importable."""
    for name in ("one", "two"):
        code = "class Plugin:\n    summary, api_version = 'x', '1.0'\n"
        install(f"vendor-{name}", {name: f"vendor_ns.{name}:Plugin"}, {f"vendor_ns/{name}/__init__.py": code})
    assert load(lock_of("vendor-one"), "one")
    assert importlib.import_module("vendor_ns.two").Plugin


def test_without_a_lock_nothing_is_guarded(lazy):
    """Loading again without a lock, in the same process, gives Python's own import back."""
    load(lock_of("vendor-x"))
    (lazy / "_rest.py").write_text("ANSWER = 'edited'")
    del sys.modules["vendor_x"]
    assert load(None)().detect() == "edited"


def test_code_that_runs_at_every_start_is_named(install, site):
    """A .pth file in a wheel runs before any lock is read: it is digested, listed, and said."""
    files = {"vendor_x/__init__.py": "", "vendor_x.pth": "import vendor_x\n"}
    install("vendor-x", files=files)
    lock = lock_of("vendor-x")
    [record] = [r for r in Registry(lock=lock).records() if r.distribution == "vendor-x"]
    assert record.status is Status.OK
    assert record.reason == "Python runs its vendor_x.pth at every start, trusted or not"
    (site / "vendor_x.pth").write_text("import os; os.abort()\n")
    assert "changed vendor_x.pth" in check(record, lock).reason
