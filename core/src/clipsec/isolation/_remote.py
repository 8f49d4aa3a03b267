"""The worker's scheduler: problems run here, their tower calls in the parent.

Each tower call of a problem becomes a problem of its own in the parent: an Encode whose features are sent
here, then, once the loss has been differentiated down to those features, a Backward with their cotangent,
whose row gradients are sent here. What lies between the towers is differentiated here, by the same code as
in the parent. Towers that a plugin has made itself are called here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.errors import ContractError
from clipsec.isolation._frames import Frame
from clipsec.isolation._link import Link, error_of
from clipsec.scheduler import Counts, Encode, Scheduler, Tower
from clipsec.scheduler._backward import BackwardPass
from clipsec.scheduler._core import Core
from clipsec.scheduler._forward import ForwardPass
from clipsec.scheduler._jobs import Call, Job
from clipsec.scheduler._run import Run

Resume = Callable[[Job, Any, BaseException | None], None]


class RemoteCore(Core):
    """A core that knows the way to the parent."""

    link: Link
    handles: dict[str, int]
    """Numbers of the parent's towers, by key."""
    calls: dict[Call, int]
    """Tower calls that the parent holds for us, by the number of their question."""


class RemoteForward:
    """Encodes that wait: for the parent, or, with a tower of the plugin's own, for us."""

    def __init__(self, core: RemoteCore, local: ForwardPass, resume: Resume) -> None:
        self._core, self._local, self._resume = core, local, resume

    def accept(self, call: Call) -> None:
        """Send a new encode to the parent."""
        handle = self._core.handles.get(call.tower.key)
        if handle is None:
            self._local.accept(call)
            return
        encode = call.encode
        keys = None if encode.row_keys is None else [bytes(key).hex() for key in encode.row_keys]
        fields = {
            "tower": handle,
            "gradient": call.with_gradient,
            "row_keys": keys,
            "micro_batch": encode.micro_batch,
            "cache": encode.cache,
            "aux": len(call.aux),
        }
        tensors = {"rows": call.rows, **{f"aux{place}": a for place, a in enumerate(call.aux)}}
        call.job.call = call
        then = partial(self._answered, call)
        self._core.calls[call] = self._core.link.ask("encode", fields, tensors, then=then)

    def forget(self, job: Job) -> None:
        """The job has ended: nobody waits for its rows."""
        if job.call in self._core.calls:
            drop(self._core, job.call)
            job.call = None
        else:
            self._local.forget(job)

    def step(self) -> bool:
        """Compute what is ours, or else wait for one answer; False when nobody waits."""
        if self._local.step():
            return True
        if not self._core.link.waiting:
            return False
        self._core.link.pump()
        return True

    def _answered(self, call: Call, frame: Frame) -> None:
        if call not in self._core.calls:
            return
        call.job.call = None
        error = error_of(frame)
        if error is not None or not call.with_gradient:
            del self._core.calls[call]
        answer = None if error is not None else frame.tensor("features").to(call.rows.device)
        if answer is not None and call.with_gradient:
            call.answer = answer.requires_grad_(True)
            call.job.calls.append(call)
        self._resume(call.job, answer, error)


class RemoteBackward(BackwardPass):
    """Pulls the calls that the parent holds back through the parent, in their turn."""

    def __init__(self, core: RemoteCore, resume: Resume) -> None:
        super().__init__(core, resume)
        self._remote = core
        self._sent: set[Call] = set()

    def step(self) -> bool:
        worked = super().step()
        for pull in self._pulls.values():
            call = pull.remaining[-1]
            if call.ready and call in self._remote.calls and call not in self._sent:
                self._sent.add(call)
                cotangent = call.cotangent
                assert cotangent is not None
                fields = {"call": self._remote.calls[call]}
                then = partial(self._answered, call)
                self._remote.link.ask("pull", fields, {"cotangent": cotangent}, then=then)
        return worked

    def _answered(self, call: Call, frame: Frame) -> None:
        if call not in self._sent:
            return
        self._sent.remove(call)
        self._remote.calls.pop(call)
        error = error_of(frame)
        if error is not None:
            self._abandon(call.job, error)
            return
        call.row_gradient = frame.tensor("rows").to(call.rows.device)
        self._passed(call)

    def _release(self, job: Job) -> None:
        for call in job.calls:
            self._sent.discard(call)
            drop(self._remote, call)
        super()._release(job)


def drop(core: RemoteCore, call: Call | None) -> None:
    """Let the parent forget a call, if it holds it."""
    number = None if call is None else core.calls.pop(call, None)
    if number is not None:
        core.link.tell("drop", {"call": number})


class RemoteRun(Run):
    """A run whose towers are elsewhere."""

    _forward: Any

    def __init__(self, core: Core, *arguments: Any, **options: Any) -> None:
        super().__init__(core, *arguments, **options)
        assert isinstance(core, RemoteCore)
        self._forward = RemoteForward(core, self._forward, self._resume_with)
        self._backward = RemoteBackward(core, self._resume_with)


class RemoteScheduler(Scheduler):
    """What a detector in a worker gets as `context.scheduler`."""

    _run_type: ClassVar[type[Run]] = RemoteRun

    def __init__(self, link: Link) -> None:
        super().__init__()
        old = self._core
        core = RemoteCore(old.safe, old.cache, old.graphs, None)
        core.link, core.handles, core.calls = link, {}, {}
        self._core: RemoteCore = core

    def tower(self, suspect: str, what: str, dtype: torch.dtype, class_names: tuple[str, ...]) -> Tower:
        """A handle on a tower that the parent prepares. Raises what preparing it raised."""
        frame = self._core.link.call(
            "tower",
            {
                "suspect": suspect,
                "what": what,
                "dtype": str(dtype).removeprefix("torch."),
                "class_names": list(class_names),
            },
        )
        key = frame.text("key")
        self._core.handles[key] = frame.whole("tower")
        size = frame.fields.get("micro_batch")
        tower: Tower

        def features(rows: Tensor, *aux: Tensor) -> Tensor:
            if torch.is_grad_enabled() and rows.requires_grad:
                raise ContractError(
                    "an isolated detector cannot differentiate through `tower.fn` by itself",
                    remedy="Yield Encode and Backward, as the scheduler's documentation shows.",
                )
            return self.run(_encode(tower, rows, aux))

        tower = Tower(
            key=key,
            fn=features,
            label=frame.text("label"),
            dtype=getattr(torch, frame.text("dtype")),
            micro_batch=size,
        )
        return tower

    def counts(self, session: str | None = None) -> Counts:
        """What this detector has cost so far; other sessions are not told."""
        values = self._core.link.call("counts", {}).table("counts")
        return attrs.evolve(Counts(), **values)


def _encode(tower: Tower, rows: Tensor, aux: tuple[Tensor, ...]) -> Any:
    return (yield Encode(tower, rows.detach(), aux, cache=False))
