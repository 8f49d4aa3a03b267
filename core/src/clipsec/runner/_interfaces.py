"""Which interfaces are measured, and what it takes to run one in all its conditions."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import torch

from clipsec.errors import ContractError, UsageError
from clipsec.protocols import Context, InterfaceCard, Need
from clipsec.results import CellState, check_measurement
from clipsec.runner._plugin_options import make_options
from clipsec.scheduler import Encode, Problem
from clipsec_registry import PluginError, PluginRecord, Registry, Status

KIND = "interfaces"


@attrs.frozen(eq=False)
class ChosenInterface:
    """An interface that was asked for, loaded or not."""

    record: PluginRecord
    plugin: Any = None
    options: Any = None
    state: CellState | None = None
    """Of all its cells, when it cannot run."""
    reason: str = ""

    @property
    def name(self) -> str:
        return self.record.canonical_name

    @property
    def card(self) -> InterfaceCard:
        card: InterfaceCard = self.plugin.card
        return card

    @property
    def localises(self) -> bool:
        """Whether branch swaps are diagnosed on it."""
        return getattr(self.plugin, "localises", False) is True


def choose_interfaces(
    registry: Registry, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> list[ChosenInterface]:
    """Every installed interface, those that are not among `names` (if any) marked as not run.

    Raises `UsageError` for a name that is not installed or an option that does not exist.
    """
    try:
        wanted = {registry.find(KIND, name).canonical_name for name in names}
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    records = list(registry.records(KIND))
    known = {name for record in records for name in (record.name, record.canonical_name)}
    for name in options:
        if name not in known:
            raise UsageError(
                f"options are given for {name!r}, which is no interface",
                remedy=f"Interfaces: {', '.join(sorted(record.name for record in records)) or 'none'}.",
            )
    return [_load(registry, record, wanted, options) for record in records]


def _load(
    registry: Registry,
    record: PluginRecord,
    wanted: Collection[str],
    options: Mapping[str, Mapping[str, Any]],
) -> ChosenInterface:
    if wanted and record.canonical_name not in wanted:
        return ChosenInterface(record, state=CellState.NOT_RUN, reason="other interfaces were named")
    plugin = registry.load(record)
    record = registry.record(record)
    if plugin is None:
        kept_out = not wanted and record.status in (Status.UNTRUSTED, Status.CONFLICTING)
        state = CellState.NOT_RUN if kept_out else CellState.ERROR
        return ChosenInterface(record, state=state, reason=f"{record.status}: {record.reason}")
    if complaint := broken_interface(plugin):
        return ChosenInterface(record, state=CellState.ERROR, reason=f"breaks the contract: {complaint}")
    values = {**options.get(record.name, {}), **options.get(record.canonical_name, {})}
    return ChosenInterface(record, plugin, make_options(plugin.options, values, record.name))


def broken_interface(plugin: Any) -> str:
    """What an interface's class lacks of what the runner reads before it calls it; empty if nothing."""
    if not callable(getattr(plugin, "measure", None)):
        return "it has no method measure"
    if not isinstance(getattr(plugin, "card", None), InterfaceCard):
        return "its card is not a clipsec.protocols.InterfaceCard"
    needs = getattr(plugin, "needs", None)
    if not isinstance(needs, frozenset) or not all(isinstance(need, Need) for need in needs):
        return "it states no needs"
    options = getattr(plugin, "options", None)
    return "" if isinstance(options, type) and attrs.has(options) else "its options are not an attrs class"


@attrs.define(eq=False)
class Asked:
    """Which rows were asked for: what the towers would compute if nothing were asked for twice."""

    pairs: set[tuple[str, bytes]] = attrs.field(factory=set)
    gradient_rows: int = 0

    def note(self, request: Encode) -> None:
        """Count a request's rows by content."""
        if request.rows.requires_grad and torch.is_grad_enabled():
            self.gradient_rows += len(request.rows)
            return
        keys = request.row_keys
        if keys is None:
            keys = [
                hashlib.blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest()
                for row in request.rows.detach().cpu()
            ]
        self.pairs.update((request.tower.key, bytes(key)) for key in keys)


def conditions(chosen: ChosenInterface, context: Context, triggered: Sequence[bool], asked: Asked) -> Problem:
    """Measure one model in these conditions, one after the other: a list of checked measurements."""
    found = []
    for on in triggered:
        value = yield from _watched(chosen.plugin(), attrs.evolve(context, triggered=on), asked)
        found.append(check_measurement(value, chosen.name))
    return found


def watched(make: Callable[[], Problem], asked: Asked) -> Problem:
    """A problem whose encodes are counted."""
    return (yield from _forward(make(), asked))


def _watched(plugin: Any, context: Context, asked: Asked) -> Problem:
    try:
        answer = plugin.measure(context)
        if inspect.isgenerator(answer):
            answer = yield from _forward(answer, asked)
        return answer
    except SystemExit as stop:
        raise ContractError(
            f"the interface called sys.exit({stop.code!r})", remedy="Report this to its author."
        ) from stop


def _forward(problem: Any, asked: Asked) -> Problem:
    """The problem itself, with a look at what it asks for."""
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            request = problem.send(answer) if failure is None else problem.throw(failure)
        except StopIteration as end:
            return end.value
        answer, failure = None, None
        if isinstance(request, Encode):
            asked.note(request)
        try:
            answer = yield request
        except GeneratorExit:
            problem.close()
            raise
        except BaseException as error:
            failure = error
