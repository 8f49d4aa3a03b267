"""What is listed, and whose it is said to be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clipsec_registry import Kind, Registry, Status


def listed(distribution: str, registry: Registry | None = None):
    records = (registry or Registry()).records()
    return [record for record in records if record.distribution == distribution]


def test_listing_imports_nothing(install):
    """A record is complete before its plugin's code has run."""
    install("vendor-quiet", files={"vendor_quiet.py": "raise SystemExit"})
    [record] = listed("vendor-quiet")
    assert (record.kind, record.name, record.version) == (Kind.DETECTORS, "vendor_quiet", "1.0")
    assert (record.status, record.loaded, record.licence) == (Status.OK, False, "Apache-2.0")
    assert record.canonical_name == "vendor-quiet/vendor-quiet"
    assert "vendor_quiet" not in sys.modules


def test_every_group_is_a_kind(install):
    """All seven entry-point groups are read, and others are not."""
    groups = [*(kind.group for kind in Kind), "console_scripts", "clipsec.unheard"]
    text = "".join(f"[{group}]\nthing = vendor_all:Plugin\n" for group in groups)
    install("vendor-all", entry_points=text)
    assert [record.kind for record in listed("vendor-all")] == list(Kind)
    assert [record.kind for record in listed("vendor-all", Registry("repairs"))] == [Kind.REPAIRS]


def test_listing_is_sorted(install):
    """The order is kind, name, distribution, whatever the order on disk."""
    for name in ("vendor-c", "vendor-a", "vendor-b"):
        install(
            name, {"same": f"{name.replace('-', '_')}:Plugin", "Alpha": f"{name.replace('-', '_')}:Plugin"}
        )
    names = [
        record.canonical_name for record in Registry("detectors").records() if "vendor" in record.distribution
    ]
    assert names == [f"vendor-{x}/{name}" for name in ("alpha", "same") for x in "abc"]


@pytest.mark.parametrize(
    "text",
    [
        "[clipsec.detectors]\nthis line has no value\nfine = vendor_torn:Plugin\n",
        b"[clipsec.detectors]\n\xff\n",
    ],
)
def test_malformed_entry_points_hurt_nobody_else(install, text):
    """A file that makes importlib.metadata raise is one failed row, and everybody else is listed."""
    install("vendor-sound")
    folder = install("vendor-torn")
    (folder / "entry_points.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert [record.status for record in listed("vendor-sound")] == [Status.OK]
    assert Status.FAILED in [record.status for record in listed("vendor-torn")]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("broken", "not a value!", "is not of the form module:attribute"),
        ("broken", "vendor_odd", "is not of the form module:attribute"),
        ("broken", "", "is empty"),
        ("broken", "nowhere_to_be_found.deep:Plugin", "its module nowhere_to_be_found is not there"),
        ("cl\u0456p", "vendor_odd:Plugin", "its name is not made of"),
        ("other/name", "vendor_odd:Plugin", "its name is not made of"),
    ],
)
def test_what_metadata_alone_shows_to_be_broken(install, name, value, reason):
    """A value or a name that cannot work is a failed row with its reason, before any import."""
    install("vendor-odd", {name: value})
    [record] = listed("vendor-odd")
    assert record.status is Status.FAILED
    assert reason in record.reason
    assert record.remedy


def test_metadata_reaches_nobody_as_escapes(install):
    """Control characters of a distribution arrive as visible text, on one line, bounded."""
    stated = (
        "Name: vendor-loud\nVersion: 1.0\x1b[2J\nSummary: \x1b]0;owned\x07 [red]x[/red] \u202e"
        + "y" * 999
        + "\n"
    )
    install("vendor-loud", metadata=stated)
    [record] = listed("vendor-loud")
    assert record.version == "1.0\\x1b[2J"
    assert record.summary.startswith("\\x1b]0;owned\\x07 [red]x[/red] \\u202e")
    assert len(record.summary) == 300


def test_a_missing_metadata_file_is_not_an_identity(install):
    """A distribution that does not say its name is nobody's."""
    (install("vendor-mute") / "METADATA").unlink()
    [record] = listed("vendor-mute")
    assert (record.status, record.version) == (Status.UNTRUSTED, "unknown")
    assert "calls itself nothing at all" in record.reason


class TestFirstParty:
    """Only the project's own distributions are first party, whatever others call themselves."""

    def test_by_normalised_name(self, install):
        """The spelling of a distribution's name does not matter, to an index or here."""
        install(
            "Clipsec_Planted_Check",
            {"planted-check": "clipsec_planted_check:Plugin"},
            {"clipsec_planted_check.py": ""},
        )
        [record] = listed("clipsec-planted-check")
        assert (record.first_party, record.status) == (True, Status.OK)

    def test_not_by_metadata_alone(self, install):
        """A folder under one name with metadata of another is not trusted."""
        install("vendor-mask", metadata="Name: clipsec-planted-check\nVersion: 1.0\n")
        [record] = listed("vendor-mask")
        assert (record.first_party, record.status) == (False, Status.UNTRUSTED)
        assert "calls itself clipsec-planted-check" in record.reason

    def test_not_when_installed_twice(self, install):
        """Two copies in one folder: which is imported is chance, so neither is."""
        install("clipsec-planted-check", {"planted-check": "clipsec_planted_check:Plugin"})
        install("clipsec-planted-check", {"planted-check": "clipsec_planted_check:Plugin"}, version="9.0")
        [record] = listed("clipsec-planted-check")
        assert (record.first_party, record.status) == (False, Status.UNTRUSTED)
        assert "installed twice" in record.reason

    def test_not_from_a_file_before_it_on_the_path(self, install, tmp_path, monkeypatch):
        """A module that would be imported in its place is not the distribution's."""
        install("clipsec-planted-check", {"planted-check": "clipsec_planted_check:Plugin"})
        (tmp_path / "clipsec_planted_check.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
        [record] = listed("clipsec-planted-check")
        assert record.status is Status.UNTRUSTED
        assert f"would execute {tmp_path}/clipsec_planted_check.py" in record.reason

    def test_lookalikes_are_named(self, install):
        """A third party whose name could be mistaken for ours is usable, and the row says so."""
        install("clipsec-clip-inspektor", {"spectral": "clipsec_clip_inspektor:Plugin"})
        [record] = listed("clipsec-clip-inspektor")
        assert (record.first_party, record.status) == (False, Status.OK)
        assert record.reason == "not by the authors of clipsec-clip-inspector, whose name it resembles"


def test_the_first_copy_on_the_path_counts(install, tmp_path, monkeypatch):
    """Of two copies on the path the first is listed, once, and the other is mentioned."""
    install("vendor-twin", version="1.0")
    overlay = tmp_path / "overlay"
    install("vendor-twin", version="2.0", into=overlay)
    monkeypatch.syspath_prepend(str(overlay))
    [record] = listed("vendor-twin")
    assert record.version == "2.0"
    assert f"another copy, not used, lies in {tmp_path / 'site'}" in record.reason


def test_a_link_is_not_a_copy(install, site, tmp_path, monkeypatch):
    """The same folder twice on the path, once through a link, holds one installation."""
    install("vendor-x")
    (tmp_path / "lib64").symlink_to(site)
    monkeypatch.syspath_prepend(str(tmp_path / "lib64"))
    [record] = listed("vendor-x")
    assert (record.status, record.reason) == (Status.OK, "")


def test_a_linked_package_is_the_same_package(install, site, tmp_path, monkeypatch):
    """Found first through a link, a first-party module still is the distribution's own file."""
    install("clipsec-planted-check", {"planted-check": "clipsec_planted_check:Plugin"})
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "clipsec_planted_check").symlink_to(site / "clipsec_planted_check")
    monkeypatch.syspath_prepend(str(tmp_path / "links"))
    assert [record.status for record in listed("clipsec-planted-check")] == [Status.OK]


def test_leftovers_of_pip_are_ignored(install, site):
    """A folder that pip renamed to `~...` while upgrading is not a second installation."""
    folder = install("vendor-left")
    leftover = site / ("~" + folder.name[1:])
    leftover.mkdir()
    for file in folder.iterdir():
        (leftover / file.name).write_bytes(file.read_bytes())
    assert [r.canonical_name for r in Registry().records() if "left" in r.name] == ["vendor-left/vendor-left"]


def test_editable_installations_are_marked(install, tmp_path, monkeypatch):
    """An editable distribution says that it is one; what its build left in the source is no copy."""
    source = tmp_path / "checkout" / "src"
    (source / "vendor_dev").mkdir(parents=True)
    (source / "vendor_dev" / "__init__.py").write_text("")
    (source / "vendor_dev.egg-info").mkdir()
    install("vendor-dev", editable=tmp_path / "checkout")
    monkeypatch.setattr(sys, "path", [*sys.path, str(source)])
    [record] = listed("vendor-dev")
    assert (record.status, record.editable, record.reason) == (Status.OK, True, "")


def test_refresh_sees_a_reinstall_at_once(install, site: Path):
    """In the same process, an entry point renamed by a reinstall is listed under its new name only."""
    folder = install("vendor-moved", {"before": "vendor_moved:Plugin"})
    registry = Registry()
    (folder / "entry_points.txt").write_text("[clipsec.detectors]\nafter = vendor_moved:Plugin\n")
    registry.refresh()
    assert [record.name for record in listed("vendor-moved", registry)] == ["after"]


def test_refresh_does_not_rely_on_clocks(install, site: Path):
    """A distribution that comes within the resolution of the file system's clock is listed."""
    install("vendor-old")
    registry, before = Registry(), site.stat()
    install("vendor-new")
    os.utime(site, ns=(before.st_atime_ns, before.st_mtime_ns))
    registry.refresh()
    assert listed("vendor-new", registry)
