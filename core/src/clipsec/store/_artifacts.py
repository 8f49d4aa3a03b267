"""Files that a verdict points to, read only as they were when it was given."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipsec.errors import StoreError
from clipsec.results import Artifact
from clipsec_registry import printable

_LARGEST = 64 * 2**20


def read_artifact(artifact: Artifact, folder: Path | str) -> bytes:
    """The content of an artifact, whose path counts from `folder` (the run's).

    `run.json` may come from anybody: a path that leaves the folder, also through a link, is not opened.
    Raises `StoreError` for that, and for a file that is missing, absurdly large or changed since.
    """
    shown, folder = printable(artifact.path, 120), Path(folder)
    try:
        place = (folder / artifact.path).resolve()
        if Path(artifact.path).is_absolute() or not place.is_relative_to(folder.resolve()):
            raise ValueError("it leads out of the run's folder")
        if place.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        content = place.read_bytes()
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise ValueError("it was changed after the run")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link loop
        raise StoreError(
            f"the artifact {shown} cannot be used: {printable(str(error), 200)}",
            remedy="Name the folder of the whole run, as `clipsec run` wrote it, or audit again.",
        ) from error
    return content
