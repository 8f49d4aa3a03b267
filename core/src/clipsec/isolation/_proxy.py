"""The parent's half of an isolated detector: serves its worker's requests as problems of the run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import torch

from clipsec.data import to_unit
from clipsec.errors import ClipsecError, ContractError, IsolationError, NotApplicableError
from clipsec.isolation._artifacts import check_artifacts, check_tree
from clipsec.isolation._context import context_message
from clipsec.isolation._frames import Frame, broken
from clipsec.isolation._worker import Worker
from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.results import Verdict, verdict_from_json
from clipsec.scheduler import Backward, Encode, Gather, Problem, Tower
from clipsec.scheduler._waits import Park, Wait

CALLS = 512
"""Tower calls of one detector that wait for rows or for a cotangent at a time."""
_RESERVED = 32
"""Of these, kept for calls that end by themselves."""
Exchange: TypeAlias = Generator[Any, Any, Any]
"""A problem that also yields what plugins do not know: `Wait` and `Park`."""

_KINDS = ("image", "embeddings", "head", "zero-shot")


class RelayedError(ContractError):
    """What the detector raised in its worker. `name` and `trace` are those of the original."""

    def __init__(self, name: str, message: str, *, remedy: str, trace: str) -> None:
        super().__init__(message, remedy=remedy)
        self.name, self.trace = name, trace


def isolated_problem(worker: Worker, context: Context) -> Problem:
    """A scheduler problem that returns the verdict of the worker's detector, and closes the worker.

    Raises `IsolationError` when the worker had to be stopped or ended by itself, `RelayedError` or
    `NotApplicableError` for what the detector raised, `ContractError` when it broke the protocol.
    """
    proxy = _Proxy(worker, context)
    try:
        check_tree(context.folder)
        worker.begin("detecting")
        worker.send("run", *context_message(context, worker.name))
        answers = yield Gather(proxy.problems(), max_live=CALLS + 1)
        verdict: Verdict = answers[0].unwrap()
        return verdict
    finally:
        worker.close()


@attrs.define(eq=False)
class _TowerCall:
    """One Encode of the worker."""

    number: int
    encode: Encode
    cotangent: Frame | None = None
    dropped: bool = False
    parked: Park | None = None
    features: tuple[int, ...] = ()


class _Proxy:
    def __init__(self, worker: Worker, context: Context) -> None:
        self._worker, self._context = worker, context
        self._suspects = {"suspect": context.suspect, "reference": context.reference}
        self._named: dict[tuple[str, ...], Suspect] = {}
        self._towers: list[Tower] = []
        self._queue: deque[_TowerCall] = deque()
        self._free: deque[Park] = deque()
        self._calls: dict[int, _TowerCall] = {}
        self._bytes = 0
        self._ended = False
        self._pool_rows: dict[bytes, tuple[torch.Tensor, int]] | None = None

    def problems(self) -> Iterator[tuple[Hashable, Problem]]:
        """The one that listens, then as many as there is room for that each serve calls."""
        yield "listen", self._listen()
        while not self._ended:
            yield "serve", self._serve()

    def _listen(self) -> Exchange:
        try:
            while True:
                frame = self._worker.receive()
                if frame is None:
                    yield Wait(self._worker)
                    continue
                verdict = self._handle(frame)
                if verdict is not None:
                    return verdict
        finally:
            self._ended = True
            for park in [*self._free, *(call.parked for call in self._calls.values() if call.parked)]:
                park.wake()

    # What the worker says

    def _handle(self, frame: Frame) -> Verdict | None:
        if frame.kind == "verdict":
            return self._verdict(frame)
        if frame.kind == "error":
            raise _raised(frame)
        if frame.kind == "encode":
            self._encode(frame)
        elif frame.kind in ("pull", "drop"):
            self._settle(frame)
        elif frame.kind == "tower":
            self._reply(frame, self._tower)
        elif frame.kind == "counts":
            self._reply(frame, self._counts)
        elif frame.kind == "progress":
            fraction = frame.fields.get("fraction")
            if not isinstance(fraction, int | float) or not math.isfinite(fraction):
                raise broken("progress is not a number")
            self._context.progress(min(1.0, max(0.0, float(fraction))), frame.text("what")[:200])
        else:
            raise broken(f"a message of kind {frame.kind[:40]!r}")
        return None

    def _verdict(self, frame: Frame) -> Verdict:
        left = self._worker.leftovers()
        refused = frame.texts("refused")
        try:
            verdict = verdict_from_json(frame.table("verdict"))
        except ClipsecError as error:
            raise broken(f"the verdict cannot be read: {error}") from None
        if refused:
            raise _refused(refused)
        check_artifacts(verdict, self._context.folder)
        if left:
            raise IsolationError(
                f"the detector left {len(left)} processes running ({', '.join(left)[:100]}), now killed",
                remedy="Report this to the plugin's author.",
            )
        return verdict

    def _reply(self, frame: Frame, answer: Callable[[Frame], Mapping[str, Any]]) -> None:
        number = frame.whole("id")
        try:
            fields = answer(frame)
        except ClipsecError as error:
            self._failed(number, error)
        else:
            self._worker.send("answer", {"id": number, **fields})

    def _failed(self, number: int, error: BaseException) -> None:
        remedy = error.remedy if isinstance(error, ClipsecError) else "Report this to the plugin's author."
        name = type(error).__name__
        message = str(error) if isinstance(error, ClipsecError) else f"{name}: {error}"
        self._worker.send("failed", {"id": number, "type": name, "message": message[:2000], "remedy": remedy})

    def _tower(self, frame: Frame) -> dict[str, Any]:
        suspect = self._suspects.get(frame.text("suspect"))
        what, dtype = frame.text("what"), getattr(torch, frame.text("dtype"), None)
        if suspect is None or what not in _KINDS or dtype not in (torch.float32, torch.bfloat16):
            raise broken("it asks for a tower that there is not")
        suspect = self._with_names(suspect, frame.texts("class_names"))
        make = {
            "image": suspect.image_tower,
            "embeddings": suspect.embedding_tower,
            "head": suspect.head,
            "zero-shot": suspect.zero_shot_head,
        }
        tower = make[what](dtype)
        self._towers.append(tower)
        return {
            "tower": len(self._towers) - 1,
            "key": tower.key,
            "label": tower.label,
            "dtype": str(tower.dtype).removeprefix("torch."),
            "micro_batch": tower.micro_batch,
        }

    def _with_names(self, suspect: Suspect, names: tuple[str, ...]) -> Suspect:
        """The suspect under the class names that a plugin has given it, as it may to one without any."""
        if suspect.class_names or not names:
            return suspect
        if names not in self._named:
            self._named[names] = attrs.evolve(suspect, class_names=names)
        return self._named[names]

    def _counts(self, frame: Frame) -> dict[str, Any]:
        counts = attrs.asdict(self._context.scheduler.counts(self._worker.name))
        return {"counts": {**counts, "micro_batches": dict(counts["micro_batches"])}}

    # Tower calls

    def _encode(self, frame: Frame) -> None:
        number, handle = frame.whole("id"), frame.whole("tower")
        if not 0 <= handle < len(self._towers) or number in self._calls:
            raise broken("it calls a tower that it was not given")
        rows = frame.tensor("rows")
        gradient, cache = frame.fields.get("gradient"), frame.fields.get("cache")
        keys, size = frame.fields.get("row_keys"), frame.fields.get("micro_batch")
        if gradient is True and not rows.is_floating_point():
            raise broken("it wants a gradient of rows that are whole numbers")
        self._bytes += rows.nbytes
        if self._bytes > self._worker.limits.memory_bytes:
            raise IsolationError(
                "the detector has more rows waiting for towers than its memory limit allows",
                remedy="Allow more with --memory-limit, or report this to the plugin's author.",
            )
        encode = Encode(
            self._towers[handle],
            rows.requires_grad_(gradient is True),
            tuple(frame.tensor(f"aux{place}") for place in range(min(frame.whole("aux"), 16))),
            None if keys is None or gradient is True else self._believed(rows, frame.texts("row_keys")),
            micro_batch=None if size is None else frame.whole("micro_batch"),
            cache=cache is True,
        )
        call = self._calls[number] = _TowerCall(number, encode)
        if gradient is True and sum(each.encode.rows.requires_grad for each in self._calls.values()) > (
            CALLS - _RESERVED
        ):
            self._forget(call)
            self._failed(
                number,
                ContractError(
                    f"more than {CALLS - _RESERVED} tower calls wait for their Backward",
                    remedy="Run fewer problems at a time (max_live).",
                ),
            )
            return
        self._queue.append(call)
        if self._free:
            self._free.popleft().wake()

    def _believed(self, rows: torch.Tensor, keys: tuple[str, ...]) -> list[bytes] | None:
        """The worker's content keys, if they are the pool's own and the rows are the pool's own pictures.

        Else None: the rows are hashed. Otherwise a worker could put features of its choice under the keys
        by which other detectors ask.
        """
        pool, visual = self._context.pool, self._context.suspect.base.visual
        if pool is None or visual is None or len(keys) != len(rows):
            return None
        if self._pool_rows is None:
            pixels = pool.pixels(visual.spec)
            own = pool.row_keys(visual.spec)
            self._pool_rows = {key: (pixels, place) for place, key in enumerate(own)}
        try:
            wanted = [bytes.fromhex(key) for key in keys]
            found = [self._pool_rows[key] for key in wanted]
        except (ValueError, KeyError):
            return None
        pixels, places = found[0][0], [place for _, place in found]
        return wanted if torch.equal(to_unit(pixels[places]), rows) else None

    def _settle(self, frame: Frame) -> None:
        call = self._calls.get(frame.whole("call"))
        if frame.kind == "drop":
            if call is None:
                return  # its answer and this have crossed
            call.dropped = True
        else:
            if call is None:
                raise broken("it goes on with a tower call that it has not made")
            cotangent = frame.tensor("cotangent")
            if tuple(cotangent.shape) != call.features or call.cotangent is not None:
                raise broken(f"a cotangent of shape {tuple(cotangent.shape)} for {call.features}")
            call.cotangent = frame
        if call.parked is not None:
            call.parked.wake()

    def _forget(self, call: _TowerCall) -> None:
        del self._calls[call.number]
        self._bytes -= call.encode.rows.nbytes

    def _serve(self) -> Exchange:
        """Serve calls one after the other, until one is dropped: its features must not stay on the tape."""
        while not self._ended:
            if not self._queue:
                park = Park()
                self._free.append(park)
                yield park
                continue
            call = self._queue.popleft()
            dropped = call.dropped
            try:
                if dropped:
                    self._failed(call.number, broken("the call was dropped"))
                else:
                    yield from self._served(call)
            finally:
                self._forget(call)
            if call.dropped and not dropped:
                return

    def _served(self, call: _TowerCall) -> Exchange:
        rows = call.encode.rows
        try:
            features = yield call.encode
        except Exception as error:
            self._failed(call.number, error)
            return
        call.features = tuple(features.shape)
        self._worker.send("answer", {"id": call.number}, {"features": features})
        if not rows.requires_grad:
            return
        if call.cotangent is None and not call.dropped:
            call.parked = Park()
            yield call.parked
        if call.cotangent is None:
            return
        number = call.cotangent.whole("id")
        try:
            cotangent = call.cotangent.tensor("cotangent").to(features.dtype)
            yield Backward((features * cotangent).sum())
        except Exception as error:
            self._failed(number, error)
            return
        assert rows.grad is not None
        self._worker.send("answer", {"id": number}, {"rows": rows.grad})


def _raised(frame: Frame) -> ClipsecError:
    message, remedy = frame.text("message")[:4000], frame.text("remedy")[:1000]
    name = frame.text("type")[:100]
    if name == NotApplicableError.__name__:
        return NotApplicableError(message, remedy=remedy)
    if refused := frame.texts("refused"):
        return _refused(refused)
    return RelayedError(name, message, remedy=remedy, trace=frame.text("traceback")[:20_000])


def _refused(what: tuple[str, ...]) -> IsolationError:
    return IsolationError(
        f"the detector did what an isolated one may not: it {what[0][:300]}",
        remedy="Report this to the plugin's author, or do not isolate a detector that you trust.",
    )
