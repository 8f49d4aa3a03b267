"""Noticing that weights were changed in memory after they were looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clipsec.models._digest import tensor_digests

Place: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]
"""Where a tensor lies in memory, and how."""


class Seals:
    """Digests of tensors as they were, under the names of what holds them.

    Writes through `.data` do not move autograd's counters, so the bytes are compared: 1.4 GB/s a core. What
    several things share is compared once.
    """

    def __init__(self) -> None:
        self._tensors: dict[Place, Tensor] = {}
        self._digests: dict[Place, str] = {}
        self._places: dict[str, set[Place]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, name: str, thing: object) -> None:
        """Remember every tensor that a thing holds, as it is now."""
        tensors = tensors_in(thing)
        fresh = {place: tensor for place, tensor in tensors.items() if place not in self._tensors}
        self._tensors.update(fresh)
        self._digests.update(_digests(fresh))
        self._places[name] = set(tensors)

    def broken(self) -> tuple[str, ...]:
        """The names of the things of which a byte differs now."""
        now = _digests(self._tensors)
        changed = {place for place, digest in self._digests.items() if now[place] != digest}
        return tuple(name for name, places in self._places.items() if places & changed)


def _digests(tensors: Mapping[Place, Tensor]) -> dict[Place, str]:
    named = {str(number): tensor for number, tensor in enumerate(tensors.values())}
    return dict(zip(tensors, tensor_digests(named).values()))


def tensors_in(root: object) -> dict[Place, Tensor]:
    """The tensors that an object holds, one for each memory: in modules, containers, our own classes, and
    in what functions have closed over."""
    found: dict[Place, Tensor] = {}
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            place = thing.data_ptr(), tuple(thing.shape), thing.stride(), thing.dtype
            found.setdefault(place, thing)
        else:
            stack.extend(_parts(thing))
    return found


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, dict):
        return thing.values()
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    if isinstance(thing, FunctionType):
        defaults = (thing.__defaults__ or (), thing.__kwdefaults__ or {})
        return (*(thing.__closure__ or ()), *defaults)
    if isinstance(thing, CellType):
        return (thing.cell_contents,) if _filled(thing) else ()
    if isinstance(thing, MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, partial):
        return (thing.func, thing.args, thing.keywords)
    if isinstance(thing, nn.Module) or type(thing).__module__.partition(".")[0] == "clipsec":
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        values = [getattr(thing, name, None) for name in slots if not name.startswith("__")]
        return (*vars(thing).values(), *values) if hasattr(thing, "__dict__") else values
    return ()


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
