"""Plugins in one unpackaged file: seen without running it, never mistaken for installed ones."""

from __future__ import annotations

import hashlib
import sys

import pytest

from clipsec_registry import (
    Lock,
    LockError,
    PluginConflictError,
    PluginNotFoundError,
    PluginTrustError,
    Registry,
    Status,
    write_lock,
)

FILE = """
import attrs

@attrs.frozen
class Options:
    sharpness: float = 1.0

class _Base:
    api_version = "1.0"
    def detect(self, context): ...

class ClassPrior(_Base):
    summary = "looks at priors"
    options = Options

class HTMLReport:
    summary, api_version = "writes a page", "1.0"
    def render(self, result, folder): ...

class Helper:
    def detect(self): ...
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def local(registry):
    return [record for record in registry.records() if record.local]


def test_classes_become_plugins(file):
    """Each public class with an api_version and a kind's method is one, its bases in the file included."""
    records = local(Registry(local=[file]))
    assert [(r.kind, r.canonical_name, r.status) for r in records] == [
        ("detectors", "local/class-prior", "ok"),
        ("reports", "local/html-report", "ok"),
    ]
    assert {record.version for record in records} == {
        f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    }
    assert records[0].value == f"{file}:ClassPrior"
    assert not records[0].first_party
    assert records[0].to_dict()["local"] is True


def test_listing_does_not_run_the_file(file):
    """The file is parsed only; loading runs it, once for both classes, and writes nothing beside it."""
    file.write_text(f"import sys\nsys.ran = getattr(sys, 'ran', 0) + 1\n{FILE}")
    registry = Registry(local=[file])
    assert not hasattr(sys, "ran")
    plugins = [registry.load(record, strict=True) for record in local(registry)]
    assert sys.__dict__.pop("ran") == 1
    assert [record.summary for record in local(registry)] == ["looks at priors", "writes a page"]
    assert plugins[0].options().sharpness == 1.0
    assert list(file.parent.iterdir()) == [file]


def test_what_runs_is_what_was_hashed(file):
    """An edit between listing and loading does not get in under the old digest; a new registry sees it."""
    before = Registry(local=[file])
    file.write_text(FILE.replace("looks at priors", "edited"))
    after = Registry(local=[file])
    old, new = local(before)[0], local(after)[0]
    assert before.load(old).summary == "looks at priors"
    assert after.load(new).summary == "edited"
    assert old.digest != new.digest


def test_it_takes_no_name_from_an_installed_plugin(file, install):
    """An installed plugin of the same name stays as it was, and keeps the bare name."""
    install("vendor-x", {"class-prior": "vendor_x:Plugin"})
    registry = Registry(local=[file])
    assert registry.find("detectors", "class-prior").canonical_name == "vendor-x/class-prior"
    assert registry.find("detectors", "local/class-prior").local
    assert {r.status for r in registry.records() if r.name == "class-prior"} == {Status.OK}
    assert Registry(local=[file]).find("reports", "html-report").local


def test_it_takes_no_name_of_ours(file):
    """A class called like a first-party plugin is reached by its own canonical name only."""
    file.write_text(FILE.replace("ClassPrior", "ClipInspector"))
    registry = Registry(local=[file])
    assert registry.find("detectors", "local/clip-inspector").local
    assert registry.find("detectors", "clip-inspector").first_party


def test_no_lock_lets_it_in(file, tmp_path):
    """Under a lock it is shown, with the reason, and not run; and no lock can be written of it."""
    file.write_text("raise AssertionError('was run')\n" + FILE)
    lock = write_lock(tmp_path / "clipsec.lock", [])
    registry = Registry(lock=lock, local=[file])
    record = local(registry)[0]
    assert record.status is Status.UNTRUSTED
    assert "is an unpackaged file" in record.reason
    assert "clipsec plugin new" in record.remedy
    with pytest.raises(PluginTrustError):
        registry.load(record, strict=True)
    with pytest.raises(LockError, match="unpackaged"):
        Lock.of(local(Registry(local=[file])))


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("def f(:", r"is not Python: .*, line 1", "Correct the file"),
        ("\0", "is not Python", "Correct the file"),
        ("x = 1", "holds no plugin", "top-level class"),
        ("class A:\n    api_version: str\n    def detect(self): ...", "holds no plugin", "api_version"),
    ],
)
def test_a_file_without_plugins_is_a_usage_error(file, code, message, remedy):
    """What cannot be used is refused at once, with exit code 4 and what to do."""
    file.write_text(code)
    with pytest.raises(PluginNotFoundError, match=message) as caught:
        Registry(local=[file])
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 4


def test_a_file_that_is_not_there(tmp_path):
    """A missing file, a folder and another suffix are refused."""
    (tmp_path / "x.txt").write_text(FILE)
    (tmp_path / "y.py").mkdir()
    for name in ("absent.py", "x.txt", "y.py"):
        with pytest.raises(PluginNotFoundError, match="cannot be read"):
            Registry(local=[tmp_path / name])


def test_two_of_one_name(file, tmp_path):
    """Two files may not offer the same name; the same file twice is once."""
    other = tmp_path / "other.py"
    other.write_text(FILE)
    with pytest.raises(PluginConflictError, match="local/class-prior"):
        Registry(local=[file, other])
    assert len(local(Registry(local=[file, file]))) == 2


@pytest.mark.parametrize(
    ("code", "status", "reason", "remedy"),
    [
        ("raise OSError('no licence')", "failed", "OSError: no licence (mine.py:1)", "Correct "),
        ("import sys; sys.exit(0)", "failed", "sys.exit(0)", "Correct "),
        ("import not_there_at_all", "failed", "ModuleNotFoundError", "Install what provides the module"),
        ("def detect(): ...", "failed", "it has no api_version", "Write api_version = '1.0'"),
        ("api = '7.0'", "incompatible", "too new", "Bring mine.py up to plugin API 1.0"),
    ],
)
def test_faults_stay_with_it(file, code, status, reason, remedy):
    """Whatever running it does becomes its status; the remedy is for its author, who is the user."""
    body = "class Mine:\n    api_version = '1.0'\n    def detect(self, context): ...\n"
    if code == "def detect(): ...":
        body += "del Mine.api_version\n"
    if code == "api = '7.0'":
        body = body.replace("'1.0'", "'7.0'")
    file.write_text(f"{code}\n{body}")
    registry = Registry(local=[file])
    assert registry.load(local(registry)[0]) is None
    (record,) = local(registry)
    assert record.status == status
    assert reason in record.reason
    assert remedy in record.remedy


def test_no_distribution_may_be_called_local(install):
    """An installed distribution with that name could pass for a file of the user's own, so it is refused."""
    install("local", {"x": "local:Plugin"})
    (record,) = [record for record in Registry().records() if record.distribution == "local"]
    assert record.status is Status.UNTRUSTED
    assert "stands for unpackaged files" in record.reason
