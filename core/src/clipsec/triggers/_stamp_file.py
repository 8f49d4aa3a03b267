"""A stamp as one safetensors file: what a detector leaves of a trigger that it found."""

from __future__ import annotations

import json

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import DataError
from clipsec.triggers._kinds import KINDS, Stamp

STAMP = "stamp"
"""Metadata key: a JSON object with `kind` and the kind's values."""


def stamp_bytes(stamp: Stamp, **metadata: str) -> bytes:
    """The file: the stamp's tensors, its kind and values in the metadata, beside what the caller adds."""
    head = json.dumps({"kind": stamp.kind, **stamp.values}, sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in stamp.tensors.items()}
    return safetensors.torch.save(tensors, metadata={STAMP: head, **metadata})


def read_stamp(content: bytes) -> Stamp:
    """The stamp of a file. A file that names no kind is `masked` when it has a mask, else `additive`.

    Raises `DataError` for what is no such file.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
        head = json.loads(_metadata(content).get(STAMP, "{}"))
        kind = head.get("kind", "masked" if "mask" in tensors else "additive")
        values = {name: float(head[name]) for name in KINDS[kind].values}
        return Stamp(kind, {name: tensor.float() for name, tensor in tensors.items()}, values)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"this file holds no trigger: {type(error).__name__}",
            remedy="Triggers are safetensors files; see clipsec.triggers.stamp_bytes.",
        ) from error


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file in memory: its header is JSON behind eight bytes of length."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found if isinstance(found, dict) else {}
