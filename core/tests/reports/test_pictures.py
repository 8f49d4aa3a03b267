"""Pictures come from the run's folder only, unchanged, and are PNG."""

from __future__ import annotations

import base64
import hashlib
import os

import attrs
import pytest

from clipsec.reports import _pictures
from clipsec.reports._pictures import embed
from clipsec.results import Artifact


def test_a_picture_of_the_run_is_embedded_whole(samples, folder):
    """Its bytes and its size are those of the file."""
    artifact = samples.picture(folder, "a", 1, size=64)
    found = embed(artifact, folder)
    assert base64.b64decode(found.uri.removeprefix("data:image/png;base64,")) == samples.png(1, 64)
    assert (found.width, found.height, found.problem) == (64, 64, "")


@pytest.fixture
def outside(samples, folder):
    path = folder.parent / "secret.png"
    path.write_bytes(samples.png(1, 32))
    return Artifact("", "picture", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "path", ["../secret.png", "sub/../../secret.png", "link.png", "sub/link/secret.png", "ABSOLUTE"]
)
def test_no_path_leads_out_of_the_folder(folder, outside, path):
    """Not by dots, not absolute, not through links; even a file with the right digest is not shown."""
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "sub" / "link").symlink_to(folder.parent)
    if path == "ABSOLUTE":
        path = str(folder.parent / "secret.png")
    found = embed(attrs.evolve(outside, path=path), folder)
    assert found.uri is None
    assert "leads out" in found.problem


def test_a_link_within_the_folder_is_fine(samples, folder):
    """Only where it ends counts; the run's folder itself may be reached through a link."""
    artifact = samples.picture(folder, "a", 1, size=32)
    (folder / "alias.png").symlink_to(folder / artifact.path)
    (folder.parent / "run-link").symlink_to(folder)
    assert embed(attrs.evolve(artifact, path="alias.png"), folder.parent / "run-link").uri


@pytest.mark.parametrize(
    "path", ["missing.png", ".", "", "a\0b", "loop", "x" * 5000, "verdicts", "unreadable\ud800"]
)
def test_what_cannot_be_read_is_reported_in_its_place(folder, path):
    """Never an exception: the rest of the report matters more."""
    (folder / "loop").symlink_to("loop")
    (folder / "verdicts").mkdir()
    found = embed(Artifact(path, "picture", "00"), folder)
    assert found.uri is None
    assert found.problem


def test_a_changed_picture_is_not_shown(samples, folder):
    """Evidence is what the run wrote, not what lies there now."""
    artifact = samples.picture(folder, "a", 1, size=32)
    (folder / artifact.path).write_bytes(samples.png(2, 32))
    assert "changed after the run" in embed(artifact, folder).problem


@pytest.mark.parametrize("content", [b"", b"<svg onload=alert(1)>", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_only_png_is_embedded(folder, content):
    """Formats that can hold scripts, and stumps, are refused even with the right digest."""
    (folder / "a.png").write_bytes(content)
    found = embed(Artifact("a.png", "picture", hashlib.sha256(content).hexdigest()), folder)
    assert "not a PNG" in found.problem


def test_a_huge_file_is_not_read(folder, monkeypatch):
    """The size is looked at first."""
    with open(folder / "a.png", "wb") as file:
        file.truncate(_pictures.LARGEST + 1)
    assert "larger than 4 MiB" in embed(Artifact("a.png", "picture", "00"), folder).problem


def test_a_pipe_is_not_opened(folder):
    """Opening one would wait for ever."""
    os.mkfifo(folder / "pipe.png")
    assert embed(Artifact("pipe.png", "picture", "00"), folder).problem == "the file is missing"
