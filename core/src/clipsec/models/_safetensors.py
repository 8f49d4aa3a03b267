"""safetensors files, with the header read and checked here before anything is mapped.

Layout (the format's own description): a little-endian u64 `n`, `n` bytes of JSON that name each tensor's
dtype, shape and byte range, then the tensors, without holes.
"""

from __future__ import annotations

import math
import struct
import sys

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipsec.errors import MalformedModelError, UnsafeModelError
from clipsec.models._files import Opened, parse_json, shown_path
from clipsec_registry import printable

HEADER_LIMIT = 16 * 2**20
"""Bytes. A model of 50,000 tensors has about 6 MB; the format itself allows 100 MB."""
TENSOR_LIMIT = 50_000
DIMENSION_LIMIT = 16

DTYPES: dict[str, tuple[torch.dtype, int]] = {
    "BOOL": (torch.bool, 1),
    "U8": (torch.uint8, 1),
    "I8": (torch.int8, 1),
    "I16": (torch.int16, 2),
    "I32": (torch.int32, 4),
    "I64": (torch.int64, 8),
    "F16": (torch.float16, 2),
    "BF16": (torch.bfloat16, 2),
    "F32": (torch.float32, 4),
    "F64": (torch.float64, 8),
}

_AGAIN = "The file is truncated or damaged: fetch it again, or ask the vendor for it."


@attrs.frozen
class Entry:
    """One tensor of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file that starts with `head` may be a safetensors file."""
    if len(head) < 9:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return bool(length <= size - 8 and head[8:9] == b"{")


def read_header(opened: Opened) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors and the metadata that the header names, every number checked against the file's size.

    Raises `MalformedModelError`, or `UnsafeModelError` for a header of absurd length. Nothing of the
    tensors is read.
    """
    what = shown_path(opened.path)
    opened.file.seek(0)
    prefix = opened.file.read(8)
    if len(prefix) < 8:
        raise MalformedModelError(f"{what} is too short for a safetensors file", remedy=_AGAIN)
    (length,) = struct.unpack("<Q", prefix)
    if length > opened.size - 8:
        raise MalformedModelError(
            f"{what} promises a header of {length:,} bytes and has {opened.size:,} in all", remedy=_AGAIN
        )
    if length > HEADER_LIMIT:
        raise UnsafeModelError(
            f"{what} has a header of {length:,} bytes; at most {HEADER_LIMIT:,} are read",
            remedy="Ask the vendor what the header holds, and for a file without it.",
        )
    header = parse_json(opened.file.read(length), f"the header of {what}")
    opened.file.seek(0)
    metadata = _metadata(header.pop("__metadata__", {}), what)
    if len(header) > TENSOR_LIMIT:
        raise UnsafeModelError(
            f"{what} names {len(header):,} tensors; at most {TENSOR_LIMIT:,} are read",
            remedy="Ask the vendor for one model per file.",
        )
    entries = {name: _entry(name, value, what) for name, value in header.items()}
    _check_layout(entries, opened.size - 8 - length, what)
    return entries, metadata


def _metadata(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedModelError(f"{what} has metadata that is not text", remedy=_AGAIN)
    return value


def _entry(name: str, value: object, what: str) -> Entry:
    def malformed(why: str) -> MalformedModelError:
        return MalformedModelError(f"{what}: tensor {printable(name, 80)} {why}", remedy=_AGAIN)

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise malformed("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise malformed(f"has the type {printable(dtype, 40)}, which is not known here")
    if not isinstance(shape, list) or not all(_is_size(number) for number in shape):
        raise malformed("has a shape that is not a list of sizes")
    if len(shape) > DIMENSION_LIMIT:
        raise malformed(f"has {len(shape)} dimensions")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(number) for number in offsets):
        raise malformed("has no two data offsets")
    begin, end = offsets
    expected = math.prod(shape) * DTYPES[dtype][1]  # Python integers: no product overflows
    if end - begin != expected:
        raise malformed(f"takes {end - begin:,} bytes where its type and shape need {expected:,}")
    return Entry(dtype, tuple(shape), begin, end)


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _check_layout(entries: dict[str, Entry], available: int, what: str) -> None:
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            kind = "overlaps the one before" if entry.begin < at else "leaves a hole before it"
            raise MalformedModelError(f"{what}: tensor {printable(name, 80)} {kind}", remedy=_AGAIN)
        at = entry.end
    if at != available:
        raise MalformedModelError(
            f"{what} holds {available:,} bytes of tensors, its header names {at:,}", remedy=_AGAIN
        )


def load_safetensors(opened: Opened) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, mapped from the file, and the metadata. Raises like `read_header`."""
    entries, metadata = read_header(opened)
    if sys.byteorder != "little":  # pragma: no cover
        raise MalformedModelError(
            "this machine stores numbers the other way round", remedy="Use a little-endian machine."
        )
    try:
        with safe_open(opened.path, framework="pt", device="cpu") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in entries}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise MalformedModelError(
            f"{shown_path(opened.path)} cannot be read: {printable(error, 120)}", remedy=_AGAIN
        ) from error
    opened.check_unchanged()
    for name, entry in entries.items():
        if tensors[name].dtype != DTYPES[entry.dtype][0] or tuple(tensors[name].shape) != entry.shape:
            raise MalformedModelError(
                f"{shown_path(opened.path)}: two readers disagree on tensor {printable(name, 80)}",
                remedy=_AGAIN,
            )
    return tensors, metadata
