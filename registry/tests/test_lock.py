"""The lock file: three refusals, and what digests cover."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec_registry import (
    Lock,
    LockedDistribution,
    LockError,
    PluginTrustError,
    Refusal,
    Registry,
    Status,
    check,
    find_lock,
    read_lock,
    write_lock,
)


def record_of(distribution: str, registry: Registry | None = None):
    [record] = [r for r in (registry or Registry()).records() if r.distribution == distribution]
    return record


def lock_of(distribution: str) -> Lock:
    return Lock.of([record_of(distribution)])


def refusal(lock: Lock, distribution: str = "vendor-x"):
    problem = check(record_of(distribution), lock)
    if problem is not None:
        assert record_of(distribution, Registry(lock=lock)).status is Status.UNTRUSTED
        assert problem.remedy
    return problem


def test_the_listed_is_imported(install, tmp_path):
    """A distribution that is as it was when trusted loads as without a lock."""
    install("vendor-x")
    path = tmp_path / "clipsec.lock"
    write_lock(path, [record_of("vendor-x")])
    registry = Registry("detectors", lock=path)
    record = registry.find("detectors", "vendor-x")
    assert record.status is Status.OK
    assert registry.load(record) is not None


def test_the_unlisted_is_shown_and_not_imported(install):
    """Without an entry in the lock a plugin is a row, with the way to trust it, and nothing more."""
    install("vendor-x")
    problem = refusal(Lock())
    assert problem.refusal is Refusal.UNLISTED
    assert problem.reason == "vendor-x is not listed in clipsec.lock"
    assert "clipsec plugin trust vendor-x" in problem.remedy
    registry = Registry(lock=Lock())
    record = registry.find("detectors", "vendor-x")
    assert registry.load(record) is None
    with pytest.raises(PluginTrustError, match="not listed"):
        registry.load(record, strict=True)
    assert "vendor_x" not in sys.modules


def test_another_version_is_refused(install):
    """A new version asks for trust again, and names both."""
    folder = install("vendor-x")
    lock = lock_of("vendor-x")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    install("vendor-x", version="1.1")
    problem = refusal(lock)
    assert problem.refusal is Refusal.VERSION
    assert problem.reason == "clipsec.lock lists vendor-x 1.0, but 1.1 is installed"
    assert "pip install vendor-x==1.0" in problem.remedy


@pytest.mark.parametrize(
    ("edit", "difference"),
    [
        (lambda site: (site / "vendor_x/__init__.py").write_text("x = 1"), "changed vendor_x/__init__.py"),
        (lambda site: (site / "vendor_x/data.bin").unlink(), "missing vendor_x/data.bin"),
        (lambda site: (site / "vendor_x/extra.py").write_text(""), "added vendor_x/extra.py"),
        # Python prefers an extension module and a package to a module of the same name.
        (lambda site: (site / "vendor_x/__init__.abi3.so").write_text(""), "added vendor_x/__init__.abi3.so"),
        (
            lambda site: (site / "vendor_x-1.0.dist-info/entry_points.txt").write_text(
                "[clipsec.detectors]\nvendor_x = os:system\n"
            ),
            "entry point gone clipsec.detectors: vendor_x = vendor_x:Plugin; "
            "entry point new clipsec.detectors: vendor_x = os:system; "
            "changed vendor_x-1.0.dist-info/entry_points.txt",
        ),
    ],
)
def test_other_files_are_refused_by_name(install, site, edit, difference):
    """A changed, missing or smuggled-in file is a refusal that names it."""
    install("vendor-x", files={"vendor_x/__init__.py": "class Plugin: pass", "vendor_x/data.bin": "1"})
    lock = lock_of("vendor-x")
    assert refusal(lock) is None
    edit(site)
    problem = refusal(lock)
    assert problem.refusal is Refusal.FILES
    assert problem.reason == f"the files of vendor-x 1.0 are not those in clipsec.lock: {difference}"


def test_what_an_installer_writes_does_not_count(install, site):
    """Bytecode caches, console scripts and the installer's notes differ between machines and are left out."""
    folder = install("vendor-x")
    (site / "vendor_x/__pycache__").mkdir()
    (site / "vendor_x/__pycache__/__init__.cpython-311.pyc").write_bytes(b"something")
    with (folder / "RECORD").open("a") as stream:
        stream.write("vendor_x/__pycache__/__init__.cpython-311.pyc,,\n")
    lock = lock_of("vendor-x")
    assert set(lock.distributions["vendor-x"].files) == {
        "vendor_x/__init__.py",
        "vendor_x-1.0.dist-info/METADATA",
        "vendor_x-1.0.dist-info/entry_points.txt",
    }
    (site / "vendor_x/__pycache__/__init__.cpython-311.pyc").write_bytes(b"something else")
    (folder / "INSTALLER").write_text("uv\n")
    (folder / "REQUESTED").touch()
    assert refusal(lock) is None


def test_a_file_before_it_on_the_path_is_refused(install, tmp_path, monkeypatch):
    """Right files are no use when the import would execute another."""
    install("vendor-x")
    lock = lock_of("vendor-x")
    (tmp_path / "vendor_x.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = refusal(lock)
    assert problem.refusal is Refusal.ELSEWHERE
    assert f"importing vendor_x would execute {tmp_path}/vendor_x.py" in problem.reason


def test_files_are_compared_again_before_the_import(install, site):
    """A file that changes between listing and loading is caught."""
    install("vendor-x")
    registry = Registry(lock=lock_of("vendor-x"))
    record = registry.find("detectors", "vendor-x")
    assert record.status is Status.OK
    (site / "vendor_x/__init__.py").write_text("raise AssertionError('was imported')")
    assert registry.load(record) is None
    assert registry.record(record).status is Status.UNTRUSTED
    assert "changed vendor_x/__init__.py" in registry.record(record).reason


def test_the_untrusted_contest_no_name(install):
    """With a lock, an unlisted plugin cannot take a name away from a listed one."""
    install("vendor-x", {"spectral": "vendor_x:Plugin"})
    install("vendor-y", {"spectral": "vendor_y:Plugin"})
    registry = Registry(lock=lock_of("vendor-x"))
    found = registry.find("detectors", "spectral")
    assert (found.distribution, found.status) == ("vendor-x", Status.OK)


def test_editable_installations_are_digested_where_they_lie(install, tmp_path, monkeypatch):
    """The lock covers every file of an editable package, and an edit is a refusal."""
    package = tmp_path / "checkout/src/vendor_x"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "template.txt").write_text("1")
    install("vendor-x", editable=tmp_path / "checkout")
    monkeypatch.syspath_prepend(str(package.parent))
    lock = lock_of("vendor-x")
    assert lock.distributions["vendor-x"].editable
    assert set(lock.distributions["vendor-x"].files) == {
        "entry_points.txt",
        "vendor_x/__init__.py",
        "vendor_x/template.txt",
    }
    assert refusal(lock) is None
    (package / "template.txt").write_text("2")
    assert "changed vendor_x/template.txt" in refusal(lock).reason


def test_namespace_packages_are_told_apart(install, site):
    """Two distributions in one namespace are digested each by itself."""
    for name in ("one", "two"):
        install(f"vendor-{name}", {name: f"vendor_ns.{name}:Plugin"}, {f"vendor_ns/{name}/__init__.py": ""})
    lock = lock_of("vendor-one")
    (site / "vendor_ns/two/__init__.py").write_text("changed = True")
    assert refusal(lock, "vendor-one") is None
    (site / "vendor_ns/one/__init__.py").write_text("changed = True")
    assert refusal(lock, "vendor-one").refusal is Refusal.FILES


def test_devices_and_links_in_a_record_are_harmless(install, site):
    """A RECORD may name pipes, missing files and places outside: nothing hangs, nothing outside counts."""
    folder = install("vendor-x")
    os.mkfifo(site / "pipe")
    (site / "vendor_x" / "loop").symlink_to(site / "vendor_x")
    with (folder / "RECORD").open("a") as stream:
        stream.write("pipe,,\n/etc/hostname,,\n../../../etc/passwd,,\ngone.py,,\n\x00,,\n")
    assert set(lock_of("vendor-x").distributions["vendor-x"].files) == {
        "vendor_x/__init__.py",
        "vendor_x-1.0.dist-info/METADATA",
        "vendor_x-1.0.dist-info/entry_points.txt",
    }


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
locked = st.builds(
    LockedDistribution,
    name=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8})?", fullmatch=True),
    version=names,
    files=st.dictionaries(names, hashes, max_size=4),
    entry_points=st.lists(names, max_size=3).map(tuple),
    editable=st.booleans(),
    signer=st.sampled_from(["", "github:acme/checks/release.yml", "ed25519:" + "A" * 43 + "="]),
)


@given(st.lists(locked, max_size=4, unique_by=lambda entry: entry.name), st.randoms())
def test_round_trip(tmp_path_factory, entries, random):
    """A lock comes back as it was written, and its bytes do not depend on the order of anything."""
    path = tmp_path_factory.mktemp("lock") / "clipsec.lock"
    lock = write_lock(path, Lock({entry.name: entry for entry in entries}))
    assert read_lock(path) == lock
    first = path.read_bytes()
    random.shuffle(entries)
    write_lock(path, Lock({entry.name: entry for entry in entries}))
    assert path.read_bytes() == first


@given(st.dictionaries(names, hashes, min_size=1, max_size=4), st.data())
def test_the_digest_depends_on_every_name_and_byte(files, data):
    """Another name, another content, one file less or more: another digest."""
    entry = LockedDistribution(name="x", version="1", files=files)
    name = data.draw(st.sampled_from(sorted(files)))
    flipped = files[name][:-1] + ("0" if files[name][-1] != "0" else "1")
    others = [
        {**files, name: flipped},
        {key: value for key, value in files.items() if key != name},
        {**files, name + "x" * 30: flipped},
        {(key + "x" * 30 if key == name else key): value for key, value in files.items()},
    ]
    for other in others:
        assert LockedDistribution(name="x", version="1", files=other).digest != entry.digest


ENTRY = '[[distribution]]\nname = "x"\nversion = "1"\neditable = false\nentry-points = []\nfiles = {}\n'
EMPTY = 'digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"\n'


def test_a_lock_written_by_hand_can_be_read(tmp_path):
    """The format is the documented one."""
    path = tmp_path / "clipsec.lock"
    path.write_text("version = 1\n" + ENTRY + EMPTY)
    assert read_lock(path).distributions["x"] == LockedDistribution(name="x", version="1", files={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not say `version = 1`"),
        ("version = 1\n[distribution", "is not TOML"),
        ("version = true", "does not say `version = 1`"),
        ("version = 2", "has format 2; this clipsec reads format 1"),
        ("version = 1\nplugins = []", "something else than distributions"),
        ("version = 1\ndistribution = 3", "not an array of tables"),
        ("version = 1\ndistribution = [3]", "not an array of tables"),
        ("version = 1\n[[distribution]]\nname = 'a/b'", "no valid name"),
        ("version = 1\n" + ENTRY, "`digest` of x is missing"),
        ("version = 1\n" + ENTRY + "digest = 'sha256:00'", "`digest` of x is not that of its files"),
        ("version = 1\n" + ENTRY + EMPTY + "extra = 1", "a key that means nothing here"),
        ("version = 1\n" + (ENTRY + EMPTY) * 2, "lists a distribution twice"),
        ("version = 1\n" + ENTRY.replace("{}", "{a = 'b'}") + EMPTY, "not all SHA-256 digests"),
        ("version = 1\n" + ENTRY.replace("[]\n", "[1]\n") + EMPTY, "not all strings"),
        ("version = 1\n" + ENTRY + EMPTY + "signer = 1", "`signer` of x is of the wrong type"),
        ("version = 1\n" + ENTRY + EMPTY + "signer = 'ed25519:AAAA'", "`signer` of x is not a key"),
        (b"version = 1 # \xff", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_malformed_lock_opens_nothing(tmp_path, text, message):
    """A lock that cannot be understood is an error with a remedy, never an empty or a missing lock."""
    path = tmp_path / "clipsec.lock"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LockError, match=message) as caught:
        Registry(lock=path)
    assert "clipsec plugin trust" in caught.value.remedy


def test_an_edited_lock_is_noticed(install, tmp_path):
    """Changing one file's digest by hand does not go unseen."""
    install("vendor-x")
    path = tmp_path / "clipsec.lock"
    write_lock(path, [record_of("vendor-x")])
    text = path.read_text()
    last = text.rstrip()[-2]
    path.write_text(text.rstrip()[:-2] + ("0" if last != "0" else "1") + '"\n')
    with pytest.raises(LockError, match="is not that of its files"):
        read_lock(path)


def test_a_lock_that_is_asked_for_must_exist(tmp_path, monkeypatch):
    """A lock that was named and is not there is an error; the default one is optional."""
    with pytest.raises(LockError, match="cannot be read"):
        Registry(lock=tmp_path / "absent.lock")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    assert find_lock() is None
    write_lock("clipsec.lock", Lock())
    assert find_lock() == tmp_path / "clipsec.lock"
    monkeypatch.setenv("CLIPSEC_LOCK", str(tmp_path / "absent.lock"))
    with pytest.raises(LockError, match="CLIPSEC_LOCK names"):
        find_lock()


def test_writing_is_all_or_nothing(tmp_path):
    """A lock that cannot be put in place leaves what was there, and no debris."""
    folder = tmp_path / "clipsec.lock"
    folder.mkdir()
    with pytest.raises(LockError, match="cannot be written") as caught:
        write_lock(folder, Lock())
    assert caught.value.remedy
    assert sorted(tmp_path.iterdir()) == [folder]
    with pytest.raises(LockError, match="cannot be written"):
        write_lock(tmp_path / "absent" / "clipsec.lock", Lock())


def test_unreadable_files_are_not_trusted(install, site, tmp_path):
    """A distribution without a file that can be digested cannot be listed in a lock."""
    folder = install("vendor-x")
    (folder / "RECORD").write_text("pipe,,\n")
    with pytest.raises(LockError, match=r"the files of vendor-x in .* cannot be read"):
        lock_of("vendor-x")


def test_adding_to_a_lock_keeps_the_rest(install):
    """Trust in one more distribution does not renew the trust in the others."""
    install("vendor-x")
    install("vendor-y")
    first = lock_of("vendor-x")
    both = first.updated(lock_of("vendor-y"))
    assert list(both.distributions) == ["vendor-x", "vendor-y"]
    assert both.distributions["vendor-x"] is first.distributions["vendor-x"]


def test_the_digest_of_a_record_follows_its_files(install, site: Path):
    """Results are cached under it: an edited plugin is another plugin."""
    install("vendor-x")
    record = record_of("vendor-x")
    before = record.digest
    assert before == lock_of("vendor-x").distributions["vendor-x"].digest
    (site / "vendor_x/__init__.py").write_text("x = 1")
    assert record.digest != before


def test_a_card_of_error_rates_is_not_code_of_the_plugin(install, site: Path):
    """What was measured of a plugin stays that of the plugin when it ships it; a lock tells the two apart."""
    module = {"vendor_x/__init__.py": "x = 1"}
    install("vendor-x", files=module)
    bare = record_of("vendor-x")
    bare_code, bare_files = bare.code_digest, bare.digest
    install("vendor-x", files=module | {"vendor_x/error_rates/x.json": "{}"})
    carded = record_of("vendor-x")
    assert carded.code_digest == bare_code
    assert carded.digest != bare_files
    (site / "vendor_x/__init__.py").write_text("x = 2")
    assert carded.code_digest != bare_code
