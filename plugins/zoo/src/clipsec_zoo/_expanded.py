"""The shipped mini, unpacked once into the user's cache as a folder that open_clip loads."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

from filelock import FileLock

from ._cache import cache_folder, digest_file, write_json
from ._compact import read_compact, write_folder

__all__ = ["expand", "is_whole", "mini_folder", "package_data"]

_MANIFEST = "manifest.json"


def package_data() -> Path:
    """The folder of this package's data files."""
    with as_file(files("clipsec_zoo") / "data") as folder:
        return folder


def is_whole(folder: Path, origin: str) -> bool:
    """Whether the folder was made from `origin` (a digest) and its files have the sizes and digests it
    was left with."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["origin"] != origin:
            return False
        return all(digest_file(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def seal(folder: Path, origin: str) -> None:
    """Write the manifest that `is_whole` reads, last of all files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    digests = {name: digest_file(folder / name) for name in names if name != _MANIFEST}
    write_json(folder / _MANIFEST, {"origin": origin, "files": digests})


def expand(shipped: Path, name: str, root: Path) -> Path:
    """Unpack the compact model `name` of folder `shipped` below `root`, unless it is there already; return
    its folder.

    Several processes may do this at once: one writes, the others wait. A damaged result is made again.
    Raises MalformedModelError when the shipped files are damaged.
    """
    origin = digest_file(shipped / f"{name}.json") if (shipped / f"{name}.json").is_file() else ""
    folder = root / f"{name}-{origin[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        if origin and is_whole(folder, origin):
            return folder
        tensors, facts = read_compact(shipped, name)
        write_folder(folder, tensors, facts["config"])
        seal(folder, origin)
    return folder


def mini_folder() -> Path:
    """A folder that `open_clip.create_model_and_transforms("local-dir:PATH")` loads: the shipped mini.

    Unpacked into the user's cache on first use (about 40 MB), checked against its digests on every call.
    Raises MalformedModelError when the package data is damaged.
    """
    return expand(package_data() / "mini", "mini", cache_folder() / "models")
