"""The worker's end of the pipe: questions with a number, answers by number, one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor

from clipsec.errors import ContractError, DetectionError, NotApplicableError, OutOfMemoryError
from clipsec.isolation._frames import HEADER, Frame, broken, lengths, pack, unpack

_ERRORS = {
    kind.__name__: kind for kind in (ContractError, DetectionError, NotApplicableError, OutOfMemoryError)
}
_NO_LIMIT = 1 << 62

Answered = Callable[[Frame], None]


class Link:
    """Blocking reads and writes. When the parent is gone, so is this process."""

    def __init__(self, fileno_in: int, fileno_out: int) -> None:
        self._in, self._out = fileno_in, fileno_out
        self._open: dict[int, Answered] = {}
        self._asked = 0
        self._seen = 0

    @property
    def waiting(self) -> bool:
        """Whether an answer is on its way."""
        return bool(self._open)

    def tell(self, kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Send something that needs no answer."""
        for part in pack(kind, fields, tensors):
            view = memoryview(part)
            while view:
                view = view[self._write(view) :]

    def ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        *,
        then: Answered,
    ) -> int:
        """Send a question; `then` is called with its answer, in `pump`. Returns its number."""
        self._asked += 1
        self._open[self._asked] = then
        self.tell(kind, {"id": self._asked, **fields}, tensors)
        return self._asked

    def call(self, kind: str, fields: Mapping[str, Any]) -> Frame:
        """Ask and wait; other answers that arrive meanwhile are handled. Raises what the parent raised."""
        got: list[Frame] = []
        self.ask(kind, fields, then=got.append)
        while not got:
            self.pump()
        error = error_of(got[0])
        if error is not None:
            raise error
        return got[0]

    def pump(self) -> None:
        """Wait for one answer and handle it."""
        frame = self.receive()
        then = self._open.pop(frame.whole("id"), None)
        if then is not None:
            then(frame)

    def receive(self) -> Frame:
        """The next message, however long it takes."""
        self.tell("idle", {"answers": self._seen})
        text, body = lengths(self._read(HEADER.size), _NO_LIMIT)
        frame = unpack(self._read(text), self._read(body))
        self._seen += 1
        return frame

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            got = os.readv(self._in, [view])
            if got == 0:
                _gone()
            view = view[got:]
        return buffer

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._out, view)
        except BrokenPipeError:
            _gone()


def _gone() -> NoReturn:
    os._exit(0)


def error_of(frame: Frame) -> DetectionError | None:
    """The error that an answer carries instead of a value."""
    if frame.kind == "answer":
        return None
    if frame.kind != "failed":
        raise broken(f"a {frame.kind!r} message in place of an answer")
    kind = _ERRORS.get(frame.text("type"), DetectionError)
    return kind(frame.text("message"), remedy=frame.text("remedy"))
