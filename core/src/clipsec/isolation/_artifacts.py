"""What a worker left in its folder, before anybody else reads it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from clipsec.errors import ContractError
from clipsec.results import Verdict

_REMEDY = "Report this to the plugin's author."


def check_tree(folder: Path) -> None:
    """Raises `ContractError` if there is anything but folders and regular files: a link would lead whoever
    reads or removes it elsewhere."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise ContractError(
                    f"the detector's folder holds a link or a special file, {name!r}", remedy=_REMEDY
                )


def check_artifacts(verdict: Verdict, folder: Path) -> None:
    """Raises `ContractError` unless every artifact is a file of the folder with the digest that is stated."""
    check_tree(folder)
    for artifact in (*verdict.artifacts, *(a for item in verdict.evidence for a in item.artifacts)):
        place = PurePosixPath(artifact.path)
        if place.is_absolute() or ".." in place.parts or not (folder / place).is_file():
            raise ContractError(f"the artifact {artifact.path!r} is not in its folder", remedy=_REMEDY)
        with (folder / place).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != artifact.sha256:
                raise ContractError(
                    f"the artifact {artifact.path!r} does not have the digest that is stated", remedy=_REMEDY
                )
