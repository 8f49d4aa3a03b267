"""What loading a hostile file may not do is watched by the interpreter itself."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.remove",
    "os.rename",
    "webbrowser.open",
)
CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in FORBIDDEN:
        _watching[-1].append(f"{event} {arguments!r:.100}")
    elif event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            _watching[-1].append(f"open for writing {path!r:.100}")


sys.addaudithook(_hook)  # hooks cannot be taken away again; this one sleeps outside of `watched`


@contextmanager
def watched() -> Iterator[list[str]]:
    """What happened inside that loading must never do: processes, connections, files written."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


@pytest.fixture
def watch() -> Callable[[], Any]:
    return watched


@pytest.fixture(scope="session")
def good_state() -> dict[str, Tensor]:
    """The weights of a tiny sound CLIP."""
    torch.manual_seed(0)
    return {name: tensor.detach().clone() for name, tensor in open_clip.CLIP(**CONFIG).state_dict().items()}


class Kit:
    """Makes deliveries below a folder: sound ones, to be spoilt by a test."""

    def __init__(self, folder: Path, state: dict[str, Tensor]) -> None:
        self.folder = folder
        self.state = state
        self.sentinel = folder.parent / "executed"

    def config(self, **changes: Any) -> dict[str, Any]:
        """The tiny model's configuration; `vision_cfg__width=5` changes one value."""
        config = json.loads(json.dumps(CONFIG))
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (config[section] if section else config)[name] = value
        return config  # type: ignore[no-any-return]

    def open_clip(self, config: dict[str, Any] | None = None) -> Path:
        """A folder with a configuration and no weights yet."""
        path = self.folder / "open_clip_config.json"
        path.write_text(json.dumps({"model_cfg": self.config() if config is None else config}))
        return self.folder

    def with_weights(self, config: dict[str, Any] | None = None) -> Path:
        """A sound open_clip folder, but for the configuration."""
        save_file(self.state, self.open_clip(config) / "open_clip_model.safetensors")
        return self.folder

    def bytes_as(self, name: str, data: bytes) -> Path:
        """The folder with `data` as its weights."""
        (self.open_clip() / name).write_bytes(data)
        return self.folder

    def safetensors(self, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
        """A safetensors file made by hand."""
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        prefix = (len(text) if length is None else length).to_bytes(8, "little")
        return self.bytes_as("open_clip_model.safetensors", prefix + text + data)

    def torch_zip(self, data_pkl: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Path:
        """A file as torch.save writes it, with any pickle and storages."""
        path = self.open_clip() / "open_clip_pytorch_model.bin"
        with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
            archive.writestr("archive/data.pkl", data_pkl)
            archive.writestr("archive/version", "3\n")
            for name, content in (records or {}).items():
                archive.writestr(f"archive/{name}", content)
        return self.folder

    def touch(self) -> Touch:
        """An object that creates the sentinel when it is unpickled."""
        return Touch(self.sentinel)


class Touch:
    """Unpickling it runs a shell command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def kit(tmp_path: Path, good_state: dict[str, Tensor]) -> Kit:
    folder = tmp_path / "delivery"
    folder.mkdir()
    return Kit(folder, good_state)


def pickled(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol=protocol)
