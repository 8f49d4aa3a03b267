"""Pictures of a run as data URIs: only files of the run itself, only as they were when it ended, only PNG."""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import attrs
from markupsafe import Markup

from clipsec.results import Artifact

LARGEST = 4 * 2**20
"""Bytes of one picture that are embedded; a trigger picture of 224 pixels has about 150,000."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@attrs.frozen
class Picture:
    """A picture to show, or why it cannot be shown."""

    description: str
    path: str
    uri: Markup | None = None
    width: int = 0
    height: int = 0
    problem: str = ""


def embed(artifact: Artifact, folder: Path) -> Picture:
    """Read a picture below `folder`. Never raises: what is wrong with it is part of the report.

    A path that leaves the folder, also through a link, is not opened: `run.json` may come from anybody.
    """
    try:
        place = (folder / artifact.path).resolve()
        if Path(artifact.path).is_absolute() or not place.is_relative_to(folder.resolve()):
            return _missing(artifact, "its path leads out of the run's folder, so it was not opened")
        if not place.is_file():
            return _missing(artifact, "the file is missing")
        if place.stat().st_size > LARGEST:
            return _missing(artifact, f"the file is larger than {LARGEST // 2**20} MiB")
        content = place.read_bytes()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # ValueError: a NUL in the path; RuntimeError: a link loop
        return _missing(artifact, f"the file cannot be read ({type(error).__name__})")
    if hashlib.sha256(content).hexdigest() != artifact.sha256:
        return _missing(artifact, "the file was changed after the run")
    if not content.startswith(_SIGNATURE) or len(content) < 24:
        return _missing(artifact, "the file is not a PNG picture")
    width, height = struct.unpack(">II", content[16:24])
    uri = Markup("data:image/png;base64,") + base64.b64encode(content).decode("ascii")
    return Picture(artifact.description, artifact.path, uri, width, height)


def _missing(artifact: Artifact, problem: str) -> Picture:
    return Picture(artifact.description, artifact.path, problem=problem)
