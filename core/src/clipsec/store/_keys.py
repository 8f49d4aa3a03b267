"""Content keys: what a result depends on, as one digest."""

from __future__ import annotations

import enum
import hashlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import numpy

from clipsec.errors import ContractError
from clipsec.results._plain import canonical_json, encode_plain


def content_key(**parts: Any) -> str:
    """The sha256 (hex) of everything that decides a result. Equal keys mean equal results.

    Parts may be plain values, lists, sets, mappings, enums, attrs instances (by class name and fields),
    and torch or numpy dtypes. Order of keys never matters; a number, a text and a truth value that look
    alike differ. A path is refused, because what lies there can change and can be moved: pass a digest.
    Raises `ContractError` for a path and for anything else without one obvious content.
    """
    return hashlib.sha256(canonical_json(_tagged(parts, "key"))).hexdigest()


def _tagged(value: Any, where: str) -> Any:
    if isinstance(value, os.PathLike):
        raise ContractError(
            f"{where} is the path {os.fspath(value)!r}, and a path says nothing about the content",
            remedy="Pass the digest of what lies there.",
        )
    if isinstance(value, enum.Enum):
        return {"$enum": type(value).__qualname__, "name": value.name}
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].dtype):
        return {"$dtype": str(value)}
    if isinstance(value, numpy.dtype):
        return {"$dtype": f"numpy.{value.name}"}
    if attrs.has(type(value)):
        fields = {
            field.name: _tagged(getattr(value, field.name), f"{where}.{field.name}")
            for field in attrs.fields(type(value))
        }
        return {"$class": type(value).__qualname__, "fields": fields}
    if isinstance(value, bytes):
        return {"$bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((_tagged(item, where) for item in value), key=canonical_json)}
    if isinstance(value, list | tuple):
        return [_tagged(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, Mapping):
        # encode_plain checks and escapes the keys; the values are tagged one by one.
        keys = list(encode_plain(dict.fromkeys(value), where))
        return {key: _tagged(item, f"{where}[{name!r}]") for key, (name, item) in zip(keys, value.items())}
    return encode_plain(value, where)
