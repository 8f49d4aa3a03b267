"""Weight files of any accepted format as one dictionary of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor

from clipsec.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from clipsec.models._files import inside, open_regular, read_json, shown_names, shown_path
from clipsec.models._safetensors import load_safetensors, looks_like_safetensors
from clipsec.models._torch_file import load_torch
from clipsec_registry import printable

SHARD_LIMIT = 1000
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the small text file begins that git-lfs leaves in place of a file it has not fetched."""


@attrs.frozen(eq=False)
class Weights:
    """Named tensors, mostly still in their file, and where they come from."""

    tensors: dict[str, Tensor]
    files: dict[str, str]
    """File name -> sha256 of the whole file."""

    @property
    def source(self) -> str:
        """The file's name, or the first and last of several, safe to show."""
        names = sorted(self.files)
        return printable(names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}", 120)


def read_weights(path: Path, *, max_bytes: int) -> Weights:
    """The tensors of one file: safetensors, or torch.save's format read with `weights_only=True`.

    The content decides the format. A state dict may lie under `state_dict` and under `module.` prefixes.
    Raises `ModelError`, `MalformedModelError` or `UnsafeModelError`; see `_files`, `_safetensors` and
    `_torch_file`.
    """
    with open_regular(path, max_bytes=max_bytes) as opened:
        head = opened.file.read(512)
        if head.startswith(_LFS_POINTER):
            raise MalformedModelError(
                f"{shown_path(path)} is a pointer of git-lfs, not the file that it stands for",
                remedy="Fetch the file: git lfs pull (in CI, a checkout with lfs).",
            )
        if looks_like_safetensors(head, opened.size) or path.suffix == ".safetensors":
            tensors, _ = load_safetensors(opened)
        elif _looks_like_torch(head):
            tensors = _state_dict(load_torch(opened), shown_path(path))
        else:
            raise MalformedModelError(
                f"{shown_path(path)} is neither safetensors nor a file of torch.save",
                remedy="Name the weights file (.safetensors, .pt, .pth, .bin), or fetch it again if it "
                "should be one.",
            )
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if total > max_bytes:
            raise UnsafeModelError(
                f"{shown_path(path)} would take {total:,} bytes; at most {max_bytes:,} are allowed",
                remedy="If a model of this size is expected, raise LoadRequest.max_bytes.",
            )
        digest = opened.sha256()
        opened.check_unchanged()
    return Weights(_unwrapped(tensors), {path.name: digest})


def read_sharded(index: Path, *, max_bytes: int) -> Weights:
    """The tensors of a model in several files, as a `*.index.json` names them, all in the index's folder.

    Raises like `read_weights`, and `MalformedModelError` when files and index do not agree.
    """
    described = read_json(index)
    table = described.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise MalformedModelError(
            f"{shown_path(index)} has no weight_map", remedy="Ask the vendor for the complete folder."
        )
    paths = {name: inside(index.parent, name) for name in dict.fromkeys(table.values())}
    if len(paths) > SHARD_LIMIT:
        raise UnsafeModelError(
            f"{shown_path(index)} names {len(paths):,} files",
            remedy="Ask the vendor for fewer, larger files.",
        )
    tensors: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    remaining = max_bytes
    for name, path in paths.items():
        part = read_weights(path, max_bytes=remaining)
        remaining -= sum(tensor.numel() * tensor.element_size() for tensor in part.tensors.values())
        expected = {key for key, value in table.items() if value == name}
        if set(part.tensors) != expected:
            wrong = set(part.tensors) ^ expected
            raise MalformedModelError(
                f"{shown_path(path)} does not hold what {index.name} says: {shown_names(wrong)}",
                remedy="Ask the vendor for the complete folder; files of two versions may be mixed.",
            )
        tensors |= part.tensors
        files |= part.files
    return Weights(tensors, files)


def _looks_like_torch(head: bytes) -> bool:
    """Zip archives, pickles of any protocol and tar archives; which of them are loaded is decided later."""
    return head.startswith((b"PK\x03\x04", b"\x80", b"c", b"(", b"]", b"}")) or head[257:262] == b"ustar"


def _state_dict(value: object, what: str) -> dict[str, Tensor]:
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not value:
        raise MalformedModelError(
            f"{what} holds no state dict", remedy="Save the model's state_dict(), as safetensors if you can."
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise MalformedModelError(
                f"{what}: {printable(name, 80)} is a {printable(type(tensor).__name__, 40)}, not a tensor",
                remedy="Save the model's state_dict() alone, as safetensors if you can.",
            )
        tensors[name] = _plain(name, tensor, what)
    return tensors


def _plain(name: str, tensor: Tensor, what: str) -> Tensor:
    # Anything but a dense CPU tensor behaves differently from what its shape says (sparse, quantised, meta).
    if (
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.layout != torch.strided
        or tensor.is_quantized
    ):
        raise UnsupportedModelError(
            f"{what}: {printable(name, 80)} is not a dense tensor",
            remedy="Ask for plain fp32 or fp16 weights.",
        )
    if tensor.device.type != "cpu":
        raise UnsupportedModelError(
            f"{what}: {printable(name, 80)} has no data", remedy="Ask the vendor for a file with the weights."
        )
    return tensor.detach()


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in _WRAPPERS:
        for prefix in _WRAPPERS:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
