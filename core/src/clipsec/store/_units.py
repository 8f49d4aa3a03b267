"""Units of work: one JSON file each, with a safetensors twin. What can be read is finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from safetensors import SafetensorError

from clipsec.results._plain import canonical_json, decode_plain, encode_plain, parse_json
from clipsec.store._atomic import atomic_write, store_error
from clipsec.store._names import safe_name

if TYPE_CHECKING:  # torch is imported where tensors are: a report of a finished run must not wait for it
    from torch import Tensor

UNIT_VERSION = "1.0"

_log = logging.getLogger("clipsec.store")


@attrs.frozen(eq=False)
class Unit:
    """A finished part of the work."""

    name: str
    data: dict[str, Any]
    tensors: dict[str, Tensor]
    """On the CPU, with the dtypes they were saved with."""


class UnitStore:
    """The units of one folder, by name. Any text is a name; `None` from `load` means: compute it (again).

    A unit is a JSON file that carries its own sha256 and that of its twin, so a file that was truncated,
    edited or mixed up is found out, logged, and treated as absent. The twin's name holds its digest: a kill
    while a unit is being replaced leaves the earlier one readable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"UnitStore({str(self.folder)!r})"

    def save(self, name: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write a unit, tensors first, JSON last. Tuples in `data` come back as lists.

        Raises `ContractError` if `data` is not plain data, `StoreError` if the disk will not take it; an
        earlier unit of the same name is then still there.
        """
        body: dict[str, Any] = {
            "version": UNIT_VERSION,
            "name": encode_plain(name),
            "data": encode_plain(data, "data"),
            "tensors": None,
        }
        content = b""
        if tensors:
            content = _serialised(tensors)
            body["tensors"] = hashlib.sha256(content).hexdigest()
        # The digest is of the canonical text, the file keeps the order of keys: reports show it.
        digest = hashlib.sha256(canonical_json(body)).hexdigest()
        text = json.dumps({**body, "sha256": digest}, allow_nan=False).encode("ascii")
        twins = {self._twin_of(name)}
        try:
            if tensors:
                twin = self._twin_path(name, body["tensors"])
                twins.add(twin)
                atomic_write(twin, content)
            atomic_write(self._json_path(name), text)
        finally:
            # Whichever JSON is in place now, the earlier or the new one, only its own twin is of use.
            for unused in twins - {self._twin_of(name)}:
                with contextlib.suppress(OSError):
                    if unused is not None:
                        unused.unlink()

    def load(self, name: str) -> Unit | None:
        """The unit, or None if it was never finished or is damaged (which is logged)."""
        return self._read(self._json_path(name), name)

    def names(self) -> list[str]:
        """The names of all units that can be loaded, sorted."""
        units = (self._read(path, None) for path in self.folder.glob("*.json"))
        return sorted(unit.name for unit in units if unit is not None)

    def clear(self) -> None:
        """Remove every unit. Raises `StoreError`."""
        for path in [*self.folder.glob("*.json"), *self.folder.glob("*.safetensors")]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise store_error(error, path, "remove") from error

    def _read(self, path: Path, name: str | None) -> Unit | None:
        try:
            body = self._body(path, name)
            tensors: dict[str, Tensor] = {}
            if body["tensors"] is not None:
                content = self._twin_path(body["name"], body["tensors"]).read_bytes()
                if hashlib.sha256(content).hexdigest() != body["tensors"]:
                    raise ValueError("its tensors do not have the recorded sha256")
                tensors = _deserialised(content)
            return Unit(body["name"], decode_plain(body["data"]), tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if path.exists():
                _log.warning("unit %s cannot be used and counts as not done: %s", path, error)
            return None

    def _body(self, path: Path, name: str | None) -> dict[str, Any]:
        body = parse_json(path.read_bytes())
        if not isinstance(body, dict):
            raise ValueError("it is not a JSON object")
        digest = body.pop("sha256", None)
        if digest != hashlib.sha256(canonical_json(body)).hexdigest():
            raise ValueError("it does not have its own sha256")
        if body["version"].partition(".")[0] != UNIT_VERSION.partition(".")[0]:
            raise ValueError(f"its version {body['version']} is not {UNIT_VERSION}")
        if path != self._json_path(body["name"]) or name not in (None, body["name"]):
            raise ValueError(f"it belongs to another unit, {body['name']!r}")
        return body

    def _twin_of(self, name: str) -> Path | None:
        try:
            digest = self._body(self._json_path(name), name)["tensors"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return self._twin_path(name, digest) if digest is not None else None

    def _json_path(self, name: str) -> Path:
        return self.folder / f"{safe_name(name)}.json"

    def _twin_path(self, name: str, digest: str) -> Path:
        return self.folder / f"{safe_name(name)}.{digest[:16]}.safetensors"


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    import safetensors.torch

    # Copies with memory of their own, because safetensors refuses views that share it.
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return safetensors.torch.save(own)


def _deserialised(content: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load(content)
