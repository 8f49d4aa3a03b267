"""The shipped form of mini: half precision, only the vocabulary rows that training saw, one digest over all
of it.

Layout of the folder: `mini.safetensors` (tensors of two or more dimensions as fp16, the rest fp32;
`token_embedding.rows` [r, width] for the ids in `token_embedding.ids` [r]) and `mini.json` (open_clip
configuration, digest of the file, and what was measured).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipsec.errors import MalformedModelError

from ._cache import atomic_path, digest_file, write_json

__all__ = [
    "REINSTALL",
    "VOCABULARY",
    "expand_vocabulary",
    "read_compact",
    "tensor_digest",
    "write_compact",
    "write_folder",
]

VOCABULARY = 49408
REINSTALL = (
    "The installed package is damaged: reinstall clipsec-zoo (pip install --force-reinstall --no-deps)."
)
_IDS, _ROWS, _TABLE = "token_embedding.ids", "token_embedding.rows", "token_embedding.weight"


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def expand_vocabulary(rows: Tensor, ids: Tensor) -> Tensor:
    """The full table [49408, width]: the given rows at their ids, their mean everywhere else."""
    table = rows.float().mean(dim=0).to(rows.dtype).expand(VOCABULARY, -1).clone()
    table[ids] = rows
    return table


def write_compact(
    folder: Path, name: str, tensors: dict[str, Tensor], ids: Tensor, facts: dict[str, Any]
) -> None:
    """Write the shipped form of an open_clip state dict whose `token_embedding.weight` has one row an id."""
    kept = {key: _half(tensor) for key, tensor in tensors.items() if key != _TABLE}
    kept[_ROWS] = _half(tensors[_TABLE])
    kept[_IDS] = ids.to(torch.int32)
    path = folder / f"{name}.safetensors"
    with atomic_path(path) as temporary:
        save_file({key: kept[key].contiguous() for key in sorted(kept)}, temporary)
    described = {"file": path.name, "sha256": digest_file(path), **facts}
    write_json(folder / f"{name}.json", described)


def _half(tensor: Tensor) -> Tensor:
    """fp16 for weights; one-dimensional tensors stay fp32: batch-norm variances leave the range of fp16."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.half() if tensor.ndim >= 2 else tensor.float()


def read_compact(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict with its full vocabulary, and the facts.

    Raises MalformedModelError when the files are missing, truncated or edited.
    """
    try:
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        path = folder / facts["file"]
        if digest_file(path) != facts["sha256"]:
            raise MalformedModelError(
                f"{path} does not have the digest that {name}.json gives", remedy=REINSTALL
            )
        tensors = load_file(path)
        rows, ids = tensors.pop(_ROWS), tensors.pop(_IDS).long()
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MalformedModelError(
            f"the shipped model {name} cannot be read: {error}", remedy=REINSTALL
        ) from error
    tensors[_TABLE] = expand_vocabulary(rows, ids)
    return tensors, facts


def write_folder(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a standard open_clip folder: `open_clip_config.json` and `open_clip_model.safetensors`."""
    write_json(folder / "open_clip_config.json", config)
    with atomic_path(folder / "open_clip_model.safetensors") as temporary:
        save_file({key: tensors[key].contiguous() for key in sorted(tensors)}, temporary)
