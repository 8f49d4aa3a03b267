"""Files written by torch.save: looked through first, then loaded by `torch.load(weights_only=True)`."""

from __future__ import annotations

import io
import struct
import tarfile
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch.serialization import safe_globals

from clipsec.errors import MalformedModelError, UnsafeModelError
from clipsec.models._files import Opened, shown_path
from clipsec.models._pickle_scan import SCAN_LIMIT, PickleScanner, Scan
from clipsec_registry import printable

MEMBER_LIMIT = 50_000
DIRECTORY_LIMIT = 64 * 2**20

_END = b"PK\x05\x06"
_END64_LOCATOR = b"PK\x06\x07"
_END64 = b"PK\x06\x06"
_LOADING = threading.Lock()
"""What `safe_globals` allows is known to the whole process: one file at a time."""
_LEGACY_PICKLES = 5
"""Before torch 1.6: magic number, protocol, machine, the object, the keys of its storages; then their
bytes."""

_AGAIN = "The file is truncated or damaged: fetch it again, or ask the vendor for it."
_SAFETENSORS = (
    "Ask the vendor for safetensors (safetensors.torch.save_file of the state dict), which holds weights and "
    "nothing else."
)


def load_torch(opened: Opened) -> Any:
    """The object in a file of torch.save, tensors mapped from the file where its format allows it.

    The pickle is read as data first (see `_pickle_scan`): every global it names must be one that weights and
    their trainers need, every tensor must lie within a storage that is there in full. Only then
    `torch.load(weights_only=True)` builds it, with inert stand-ins for the trainers' own classes.

    Raises `UnsafeModelError` (it would run code, or take absurd memory) or `MalformedModelError`. There is
    no fallback to an unrestricted pickle.
    """
    opened.file.seek(0)
    head = opened.file.read(512)
    zipped = head.startswith(b"PK\x03\x04")
    scan = _scan_zip(opened) if zipped else _scan_legacy(opened, head)
    try:
        # A stand-in is named by the path of the class it replaces; that class itself is never imported.
        stand_ins: Any = [(_stand_in(name), name) for name in sorted(scan.bookkeeping)]
        with _LOADING, warnings.catch_warnings(), safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            value = torch.load(str(opened.path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        # torch's own message recommends weights_only=False; that advice is not passed on.
        raise MalformedModelError(
            f"{shown_path(opened.path)} cannot be read by torch ({type(error).__name__})", remedy=_AGAIN
        ) from error
    opened.check_unchanged()
    return value


class _Inert:
    """Stands in for an object that a trainer left behind: takes any arguments and state, keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _inert_mapping(*_: object) -> OrderedDict[Any, Any]:
    # The restricted unpickler fills dictionaries of these very types only, not subclasses.
    return OrderedDict()


def _stand_in(name: str) -> Any:
    return _inert_mapping if name == "collections.defaultdict" else _Inert


def _scan_zip(opened: Opened) -> Scan:
    what = shown_path(opened.path)
    _check_zip_directory(opened, what)
    try:
        opened.file.seek(0)
        with zipfile.ZipFile(opened.file) as archive:
            members = archive.infolist()
            root = _check_members(members, opened.size, what)
            data = archive.read(f"{root}/data.pkl")
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, RuntimeError, struct.error) as error:
        raise MalformedModelError(
            f"{what} is a damaged zip archive: {printable(error, 100)}", remedy=_AGAIN
        ) from error
    scanner = PickleScanner(what)
    scanner.scan(io.BytesIO(data))
    scan = scanner.check()
    sizes = {member.filename: member.file_size for member in members}
    for key, size in scan.storages.items():
        if sizes.get(f"{root}/data/{key}") != size:
            raise MalformedModelError(
                f"{what} holds {sizes.get(f'{root}/data/{key}', 0):,} bytes of a tensor that needs {size:,}",
                remedy=_AGAIN,
            )
    return scan


def _check_zip_directory(opened: Opened, what: str) -> None:
    """Find the directory at the very end of the file and bound it, before zipfile reads it into memory.

    An archive that ends in something else can show different directories to different readers.
    """
    at = opened.size - 22
    opened.file.seek(max(0, at))
    end = opened.file.read(22)
    if len(end) != 22 or not end.startswith(_END):
        raise MalformedModelError(f"{what} is a zip archive without its end", remedy=_AGAIN)
    count, size, offset, comment = struct.unpack("<HIIH", end[10:22])
    if comment:
        raise MalformedModelError(f"{what} is a zip archive with something behind its end", remedy=_AGAIN)
    opened.file.seek(max(0, opened.size - 42))
    locator = opened.file.read(20)
    if locator.startswith(_END64_LOCATOR):  # torch always writes the long form too
        (at,) = struct.unpack("<Q", locator[8:16])
        if at != opened.size - 98:
            raise MalformedModelError(f"{what} is a zip archive with two ends", remedy=_AGAIN)
        opened.file.seek(at)
        record = opened.file.read(56)
        if not record.startswith(_END64):
            raise MalformedModelError(f"{what} is a zip archive without its end", remedy=_AGAIN)
        count, size, offset = struct.unpack("<QQQ", record[32:56])
    if offset + size != at:
        raise MalformedModelError(f"{what} is a zip archive whose directory is not at its end", remedy=_AGAIN)
    if count > MEMBER_LIMIT or size > DIRECTORY_LIMIT:
        raise UnsafeModelError(
            f"{what} is a zip archive of {count:,} members", remedy="Ask the vendor for one model per file."
        )


def _check_members(members: Sequence[zipfile.ZipInfo], size: int, what: str) -> str:
    """The archive's root folder, after checking that unpacking cannot give more than the file has."""
    by_name = {member.filename: member for member in members}
    pickles = [name for name in by_name if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise MalformedModelError(f"{what} is a zip archive, but not one of torch.save", remedy=_SAFETENSORS)
    root = pickles[0].removesuffix("/data.pkl")
    if f"{root}/constants.pkl" in by_name or any(name.startswith(f"{root}/code/") for name in by_name):
        raise UnsafeModelError(
            f"{what} is a TorchScript archive: it holds a program, and loading it runs the program",
            remedy="Ask the vendor for the weights alone, as safetensors (the model's state dict); OpenAI's "
            "own are open_clip:NAME-quickgelu@openai.",
        )
    total = 0
    for member in members:
        total += member.file_size
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UnsafeModelError(
                f"{what} holds compressed data ({printable(member.filename, 80)}: {member.file_size:,} bytes "
                f"out of {member.compress_size:,}); torch.save stores weights as they are",
                remedy=_SAFETENSORS,
            )
    if total > size:
        raise UnsafeModelError(
            f"{what} is a zip archive whose members overlap: {total:,} bytes out of a file of {size:,}",
            remedy=_SAFETENSORS,
        )
    pickle_size = by_name[f"{root}/data.pkl"].file_size
    if pickle_size > SCAN_LIMIT:
        raise UnsafeModelError(
            f"{what} holds a pickle of {pickle_size:,} bytes; at most {SCAN_LIMIT:,} are read",
            remedy=_SAFETENSORS,
        )
    return root


def _scan_legacy(opened: Opened, head: bytes) -> Scan:
    what = shown_path(opened.path)
    if tarfile.is_tarfile(io.BytesIO(head)) or head[257:262] == b"ustar":
        raise UnsafeModelError(
            f"{what} is in torch's tar format of 2016, which cannot be read without running its pickles",
            remedy=_SAFETENSORS,
        )
    opened.file.seek(0)
    stream = io.BytesIO(opened.file.read(SCAN_LIMIT))
    scanner = PickleScanner(what)
    for _ in range(_LEGACY_PICKLES):
        position = stream.tell()
        if position >= len(stream.getbuffer()):
            break
        scanner.scan(stream)
        if stream.tell() == position:
            break
    scan = scanner.check()
    if sum(scan.storages.values()) > opened.size:
        raise MalformedModelError(
            f"{what} names {sum(scan.storages.values()):,} bytes of tensors and has {opened.size:,}",
            remedy=_AGAIN,
        )
    return scan
