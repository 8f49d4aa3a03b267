"""Reading a pickle as data: which globals it names, what it would build, and how much memory that takes.

An abstract stack machine over the opcodes. It imports nothing, calls nothing and builds no value of the
file's; sizes are Python integers, so nothing overflows. `torch.load(weights_only=True)` is the gate that
loads; this goes before it, because that gate names one blocked global at a time, allocates what a file asks
for, and calls constructors (bytearray, Tensor) that a state dict never needs.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import attrs

from clipsec.errors import MalformedModelError, ModelError, UnsafeModelError
from clipsec_registry import printable

SCAN_LIMIT = 8 * 2**20
"""Bytes of pickle that are read. The state dict and optimiser of a ViT-bigG have about 1 MB."""
OPCODE_LIMIT = 2_000_000
WEIGHT_LIMIT = 10_000_000
"""Values in the expanded tree of one object. Tuples of tuples double it at every level; hashing them, as a
dictionary key, would take that long."""

STORAGE_ITEMSIZE = {
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.ShortStorage": 2,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.IntStorage": 4,
    "torch.FloatStorage": 4,
    "torch.LongStorage": 8,
    "torch.DoubleStorage": 8,
}
_REBUILDS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"}
_CONTAINERS = {"collections.OrderedDict", "collections.Counter"}
_SMALL = {"torch.Size", "torch.device", "builtins.set", "_codecs.encode"}
_DTYPES = re.compile(r"torch\.(u?int(8|16|32|64)|b?float(16|32|64)|bool|half|float|double|long|short)")
_BOOKKEEPING = re.compile(
    r"torch\.optim\.[A-Za-z_.0-9]+"
    r"|dassl\.optim\.[A-Za-z_.0-9]+"
    r"|numpy\.(core|_core)\.multiarray\.scalar|numpy\.dtype"
    r"|collections\.defaultdict|builtins\.dict"
    r"|argparse\.Namespace|yacs\.config\.CfgNode"
)
"""What trainers leave beside the weights. Dassl's warm-up scheduler, for one, keeps its successor and with it
the optimiser as objects in every CoOp checkpoint. They are replaced by inert stand-ins; nothing of them is
imported."""

_RESAVE = (
    "Ask the vendor for safetensors (safetensors.torch.save_file of the state dict), which holds weights and "
    "nothing else."
)


def is_bookkeeping(name: str) -> bool:
    """Whether `module.name` is something that trainers leave beside the weights."""
    return _BOOKKEEPING.fullmatch(name) is not None


def _is_known(name: str) -> bool:
    return (
        name in STORAGE_ITEMSIZE
        or name in _REBUILDS
        or name in _PARAMETERS
        or name in _CONTAINERS
        or name in _SMALL
        or _DTYPES.fullmatch(name) is not None
        or is_bookkeeping(name)
    )


@attrs.frozen
class Scan:
    """What a pickle would build."""

    bookkeeping: frozenset[str]
    """The trainer's classes it names, to be replaced by inert stand-ins."""
    storages: dict[str, int]
    """Key of each tensor storage -> its size in bytes."""


@attrs.frozen
class _Global:
    name: str


@attrs.frozen
class _Made:
    """An instance of `name`."""

    name: str


@attrs.frozen
class _Storage:
    items: int


class _Opaque:
    """A value that nobody needs to know."""


_OPAQUE = _Opaque()
_CELL = tuple[int, Any]
"""(values in the expanded tree, what is known of the value)."""


class PickleScanner:
    """Scans the consecutive pickles of one file and gathers what they name.

    `check` raises `UnsafeModelError` for globals that are not known, naming all of them, and for objects
    that would take absurd memory; `MalformedModelError` for what is no pickle.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._foreign: set[str] = set()
        self._bookkeeping: set[str] = set()
        self._storages: dict[str, int] = {}
        self._unsupported: set[str] = set()
        self._ops = 0

    def scan(self, stream: io.BytesIO) -> None:
        """One pickle, from the stream's position to behind its end.

        What it names is gathered even where it cannot be followed, so that `check` can name it all.
        """
        machine: _Machine | None = _Machine(self._what, self._storages)
        texts: list[str] = []
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._ops += 1
                if self._ops > OPCODE_LIMIT:
                    raise self._unsafe(f"has more than {OPCODE_LIMIT:,} instructions")
                if isinstance(argument, str):
                    texts = [*texts[-1:], argument]
                name = _named(opcode.name, argument, texts)
                if name is not None:
                    self._note(name)
                if machine is None or self._foreign:
                    continue
                step = _STEPS.get(opcode.name)
                if step is None:
                    self._unsupported.add(opcode.name)
                    machine = None
                    continue
                step(machine, argument)
        except ModelError:
            raise
        except Exception as error:
            if not self._foreign:
                raise MalformedModelError(
                    f"{self._what} holds a damaged pickle: {printable(error, 100)}",
                    remedy="The file is truncated or damaged: fetch it again, or ask the vendor for it.",
                ) from error

    def check(self) -> Scan:
        """What was found, or why it may not be loaded."""
        if self._foreign:
            names = sorted(self._foreign)
            shown = ", ".join(printable(name, 80) for name in names[:8])
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise UnsafeModelError(
                f"{self._what} was not loaded: it would run code, or build objects, that weights do not "
                "need: "
                f"{shown}{more}",
                remedy=_RESAVE,
            )
        if self._unsupported:
            raise UnsafeModelError(
                f"{self._what} was not loaded: it is a pickle that torch.save did not write "
                f"({', '.join(sorted(self._unsupported)[:4])})",
                remedy=_RESAVE,
            )
        return Scan(frozenset(self._bookkeeping), dict(self._storages))

    def _note(self, name: str) -> None:
        if not _is_known(name):
            self._foreign.add(name)
        elif is_bookkeeping(name):
            self._bookkeeping.add(name)

    def _unsafe(self, why: str) -> UnsafeModelError:
        return UnsafeModelError(f"{self._what} was not loaded: it {why}", remedy=_RESAVE)


def _named(opcode: str, argument: object, texts: list[str]) -> str | None:
    if opcode in ("GLOBAL", "INST") and isinstance(argument, str):
        module, _, name = argument.partition(" ")
    elif opcode == "STACK_GLOBAL":
        module, name = texts if len(texts) == 2 else ("an unnamed", "global")
    elif opcode in ("EXT1", "EXT2", "EXT4"):
        module, name = "an extension", "code"
    else:
        return None
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    return f"{module}.{name}"


class _Machine:
    """The stack of an unpickler that builds nothing."""

    def __init__(self, what: str, storages: dict[str, int]) -> None:
        self._what = what
        self._storages = storages
        self._stack: list[_CELL] = []
        self._below: list[list[_CELL]] = []
        self._memo: dict[int, _CELL] = {}

    def push(self, value: Any, weight: int = 1) -> None:
        if weight > WEIGHT_LIMIT:
            raise UnsafeModelError(
                f"{self._what} was not loaded: it nests values until one stands for more than "
                f"{WEIGHT_LIMIT:,} others",
                remedy=_RESAVE,
            )
        self._stack.append((weight, value))

    def pop(self) -> _CELL:
        return self._stack.pop()

    def mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[_CELL]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def push_global(self, argument: str) -> None:
        self.push(_Global(_named("GLOBAL", argument, []) or ""))

    def make_tuple(self, cells: list[_CELL]) -> None:
        # Only short tuples are ever looked into: arguments, sizes and storage references.
        value = tuple(cell[1] for cell in cells) if len(cells) <= DIMENSIONS else _OPAQUE
        self.push(value, 1 + sum(cell[0] for cell in cells))

    def extend(self, cells: list[_CELL]) -> None:
        weight, value = self.pop()
        self.push(value, weight + sum(cell[0] for cell in cells))

    def build(self, _: object) -> None:
        state = self.pop()
        weight, value = self.pop()
        if not isinstance(value, _Made) or not (value.name in _CONTAINERS or is_bookkeeping(value.name)):
            raise self._unsafe("sets the inner state of an object")
        self.push(value, weight + state[0])

    def call(self, _: object) -> None:
        """REDUCE and NEWOBJ: a callable from the stack with its arguments."""
        arguments = self.pop()
        _, function = self.pop()
        name = function.name if isinstance(function, _Global) else None
        values = arguments[1] if isinstance(arguments[1], tuple) else ()
        result: Any = _Made(name or "")
        if name in _REBUILDS:
            self._check_tensor(values)
            result = _Made("tensor")
        elif name in _PARAMETERS:
            result = _Made("tensor")
        elif name == "_codecs.encode":
            # Other codecs (idna, for one) need quadratic time.
            if len(values) != 2 or values[1] not in ("latin1", "latin-1"):
                raise self._unsafe("encodes text")
            result = _OPAQUE
        elif name is None or not (name in _CONTAINERS or name in _SMALL or is_bookkeeping(name)):
            raise self._unsafe(f"calls {printable(name or 'what it has built', 80)}")
        self.push(result, 1 + arguments[0])

    def storage(self, _: object) -> None:
        """BINPERSID: a reference to a tensor's storage, `("storage", type, key, location, items)`."""
        _, value = self.pop()
        ok = isinstance(value, tuple) and len(value) in (5, 6) and value[0] == "storage"
        if not ok or (len(value) == 6 and value[5] is not None):
            raise self._malformed("refers to something that is not a tensor's storage")
        kind, key, items = value[1], value[2], value[4]
        itemsize = STORAGE_ITEMSIZE.get(kind.name) if isinstance(kind, _Global) else None
        if itemsize is None or not isinstance(key, str) or type(items) is not int or items < 0:
            raise self._malformed("refers to a storage of an unknown kind")
        size = items * itemsize
        if self._storages.setdefault(key, size) != size:
            raise self._malformed(f"gives storage {printable(key, 40)} two sizes")
        self.push(_Storage(items))

    def _check_tensor(self, values: tuple[Any, ...]) -> None:
        if len(values) < 4 or not isinstance(values[0], _Storage):
            raise self._malformed("builds a tensor from something else than a storage")
        storage, offset, shape, stride = values[:4]
        numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else ()
        if not numbers or len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise self._malformed("builds a tensor of an impossible shape")
        count = math.prod(shape)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
        # A stride of 0 makes one number look like a terabyte of them; a state dict never does.
        if count and (last >= storage.items or count > storage.items):
            raise self._malformed("builds a tensor that is larger than its storage")

    def _unsafe(self, why: str) -> UnsafeModelError:
        return UnsafeModelError(f"{self._what} was not loaded: it {why}", remedy=_RESAVE)

    def _malformed(self, why: str) -> MalformedModelError:
        return MalformedModelError(
            f"{self._what} {why}",
            remedy="The file is damaged, or was made by hand: ask the vendor for safetensors.",
        )


DIMENSIONS = 16
"""Values of a tuple that are kept; tensors have fewer dimensions."""

_Step = Callable[[_Machine, Any], None]


def _push(value: Any) -> _Step:
    return lambda machine, argument: machine.push(value)


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _tuple_of(count: int) -> _Step:
    def step(machine: _Machine, argument: Any) -> None:
        machine.make_tuple([machine.pop() for _ in range(count)][::-1])

    return step


def _append(machine: _Machine, argument: Any) -> None:
    machine.extend([machine.pop()])


def _set_item(machine: _Machine, argument: Any) -> None:
    machine.extend([machine.pop(), machine.pop()])


_STEPS: dict[str, _Step] = {
    # Exactly what torch's weights-only unpickler understands.
    "PROTO": lambda machine, argument: None,
    "STOP": lambda machine, argument: None,
    "GLOBAL": _Machine.push_global,
    "NEWOBJ": _Machine.call,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "MARK": _Machine.mark,
    "APPEND": _append,
    "APPENDS": lambda machine, argument: machine.extend(machine.pop_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, argument: machine.extend(machine.pop_mark()),
    "TUPLE": lambda machine, argument: machine.make_tuple(machine.pop_mark()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "NONE": _push(None),
    "NEWFALSE": _push(False),
    "NEWTRUE": _push(True),
    "EMPTY_TUPLE": _push(()),
    "EMPTY_LIST": _push(_OPAQUE),
    "EMPTY_DICT": _push(_OPAQUE),
    "EMPTY_SET": _push(_OPAQUE),
    "BININT": _push_argument,
    "BININT1": _push_argument,
    "BININT2": _push_argument,
    "LONG1": _push_argument,
    "BINFLOAT": _push(_OPAQUE),
    "BINUNICODE": _push_argument,
    "SHORT_BINSTRING": _push_argument,
    "BINPERSID": _Machine.storage,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
}
