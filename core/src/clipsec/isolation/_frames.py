"""Messages over a pipe: a header with both lengths, a JSON object, and tensors as safetensors. No pickle.

    4 bytes  "CSI1"
    4 bytes  length of the JSON text     little endian, at most `JSON_BYTES`
    8 bytes  length of the tensors       little endian, at most what the reader allows

Either side treats the other as hostile: nothing is allocated before the lengths are checked.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import attrs
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.results._plain import parse_json

MAGIC = b"CSI1"
HEADER = struct.Struct("<4sIQ")
JSON_BYTES = 64 << 20
"""A verdict on a thousand classes takes about one MB."""
CHUNK = 1 << 20


@attrs.frozen(eq=False)
class Frame:
    """One message."""

    kind: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor] = attrs.field(factory=dict)

    def text(self, name: str) -> str:
        """A field that must be a text. Raises `ContractError`."""
        return _typed(self, name, str)

    def whole(self, name: str) -> int:
        """A field that must be a whole number. Raises `ContractError`."""
        return _typed(self, name, int)

    def table(self, name: str) -> dict[str, Any]:
        """A field that must be a JSON object. Raises `ContractError`."""
        return _typed(self, name, dict)

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that must be a list of texts. Raises `ContractError`."""
        values = _typed(self, name, list)
        if not all(isinstance(value, str) for value in values):
            raise broken(f"{name!r} of a {self.kind!r} message holds something else than texts")
        return tuple(values)

    def tensor(self, name: str) -> Tensor:
        """A tensor that must be there. Raises `ContractError`."""
        if name not in self.tensors:
            raise broken(f"a {self.kind!r} message has no tensor {name!r}")
        return self.tensors[name]


def _typed(frame: Frame, name: str, kind: type) -> Any:
    value = frame.fields.get(name)
    # `type() is`, not isinstance: True is an int to Python.
    if type(value) is not kind:
        raise broken(f"{name!r} of a {frame.kind!r} message is not a {kind.__name__}")
    return value


def broken(what: str) -> ContractError:
    """The other side does not keep to the protocol."""
    return ContractError(
        f"the messages of an isolated detector are not as agreed: {what}",
        remedy="Report this to the plugin's author.",
    )


def pack(kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> list[bytes]:
    """The bytes of a message, in pieces. `fields` are plain JSON values."""
    body = b""
    if tensors:
        # Copies with memory of their own: safetensors refuses tensors that share it.
        own = {name: _own(value) for name, value in tensors.items()}
        body = safetensors.torch.save(own)
    text = json.dumps({"kind": kind, **fields}, allow_nan=False).encode("ascii")
    if len(text) > JSON_BYTES:
        raise broken(f"a {kind!r} message of {len(text)} bytes is too long")
    return [HEADER.pack(MAGIC, len(text), len(body)) + text, body]


def _own(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
    return value if whole else value.contiguous().clone()


def lengths(header: bytes | bytearray, limit: int) -> tuple[int, int]:
    """The lengths that a header states. Raises `ContractError` for one that is none, or exceeds the limit."""
    magic, text, body = HEADER.unpack(header)
    if magic != MAGIC:
        raise broken("what arrives is not a message")
    if text > JSON_BYTES or body > limit:
        raise broken(f"a message of {text} + {body} bytes is longer than {JSON_BYTES} + {limit}")
    return text, body


def unpack(text: bytes | bytearray | memoryview, body: bytes | bytearray | memoryview) -> Frame:
    """The message in two pieces. Raises `ContractError` for anything else."""
    try:
        fields = parse_json(bytes(text))
        if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
            raise ValueError("not an object with a kind")
        tensors = safetensors.torch.load(bytes(body)) if len(body) else {}
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise broken(f"a message cannot be read: {str(error)[:200]}") from None
    kind = fields.pop("kind")
    return Frame(kind, fields, tensors)


class Reader:
    """Puts messages together from whatever a non-blocking pipe gives."""

    def __init__(self, fileno: int, limit: int) -> None:
        self._fileno, self._limit = fileno, limit
        self._buffer, self._filled = bytearray(HEADER.size), 0
        self._text = -1

    def read(self) -> Frame | None:
        """The next message, or None when it is not whole yet.

        Raises `EOFError` when the other side is gone, `ContractError` when it breaks the protocol.
        """
        while True:
            if self._filled == len(self._buffer):
                if self._text < 0:
                    self._text, body = lengths(self._buffer, self._limit)
                    self._buffer, self._filled = bytearray(self._text + body), 0
                    continue
                whole, text = memoryview(self._buffer), self._text
                self._buffer, self._filled, self._text = bytearray(HEADER.size), 0, -1
                return unpack(whole[:text], whole[text:])
            try:
                rest = memoryview(self._buffer)[self._filled : self._filled + CHUNK]
                count = os.readv(self._fileno, [rest])
            except BlockingIOError:
                return None
            if count == 0:
                raise EOFError
            self._filled += count
