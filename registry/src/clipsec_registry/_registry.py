"""The registry: every plugin of some kinds, found, resolved, loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from clipsec_registry._discovery import Offer, discover
from clipsec_registry._errors import (
    PluginConflictError,
    PluginError,
    PluginIncompatibleError,
    PluginLoadError,
    PluginNotFoundError,
    PluginTrustError,
)
from clipsec_registry._files import locate, startup_files
from clipsec_registry._lock import (
    Lock,
    TrustProblem,
    check,
    check_installation,
    check_origin,
    read_lock,
)
from clipsec_registry._names import is_name, module_of, normalise, reserved_for
from clipsec_registry._records import Kind, PluginRecord, Status
from clipsec_registry._text import printable

_Key = tuple[Kind, str]

_ERRORS: dict[Status, type[PluginError]] = {
    Status.FAILED: PluginLoadError,
    Status.UNTRUSTED: PluginTrustError,
    Status.INCOMPATIBLE: PluginIncompatibleError,
    Status.CONFLICTING: PluginConflictError,
}


class Registry:
    """The installed plugins of the given kinds (default: all), under a lock if there is one.

    `local` names unpackaged files whose plugins come too, as `local/NAME`; they never take a name from an
    installed plugin, and no lock lets them in. Listing imports no plugin.

    Raises `LockError` if `lock` names a file that cannot be used, `PluginNotFoundError` or
    `PluginConflictError` if a local file cannot be.
    """

    def __init__(
        self,
        *kinds: Kind | str,
        lock: Lock | str | os.PathLike[str] | None = None,
        local: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        self._kinds = frozenset(map(Kind, kinds)) or frozenset(Kind)
        self._local: list[Offer] = []
        if local := list(local):
            from clipsec_registry._local import read_local

            self._local = read_local(local)
        self.lock = lock if isinstance(lock, Lock) or lock is None else read_lock(lock)
        self._records: dict[_Key, PluginRecord] = {}
        self._plugins: dict[_Key, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is installed, e.g. after `pip install`; loaded plugins stay loaded."""
        records = _resolve([_first_look(offer) for offer in discover() + self._local], self.lock)
        fresh: dict[_Key, PluginRecord] = {}
        for record in records:
            if record.kind in self._kinds:
                fresh.setdefault(_key(record), record)
        for key, plugin_record in self._records.items():
            if plugin_record.loaded and key in fresh:
                fresh[key] = plugin_record
        self._records = fresh

    def records(self, kind: Kind | str | None = None) -> tuple[PluginRecord, ...]:
        """Every plugin with its present status, ordered by kind, name and distribution."""
        return tuple(record for record in self._records.values() if kind is None or record.kind == Kind(kind))

    def record(self, record: PluginRecord) -> PluginRecord:
        """The present state of a plugin found earlier. Raises `PluginNotFoundError` if it is gone."""
        try:
            return self._records[_key(record)]
        except KeyError:
            raise PluginNotFoundError(
                f"{record.canonical_name} is no longer installed",
                remedy=f"Run `pip install {record.distribution}`.",
                plugin=record.canonical_name,
            ) from None

    def find(self, kind: Kind | str | None, name: str) -> PluginRecord:
        """The plugin called `name`: its bare name while that is unique, or `distribution/name`.

        Whatever its status: `load` says whether it can be used. A plugin whose bare name is contested comes
        back with status `ok` when it is asked for by its canonical name.

        Raises `PluginNotFoundError`, naming the closest ones, or `PluginConflictError`.
        """
        records = self.records(kind)
        distribution, slash, bare = name.rpartition("/")
        bare = normalise(bare)
        same = [record for record in records if normalise(record.name) == bare]
        if slash:
            same = [record for record in same if record.distribution == normalise(distribution)]
            found = [_by_full_name(record) for record in same]
        else:
            # Those that may never have the name do not contest it: the lock, or the reservation, has decided.
            contest = [record for record in same if record.status is not Status.UNTRUSTED]
            found = [record for record in contest if not _is_impostor(record)] or (
                same if not contest else []
            )
            found = [record for record in found if not record.local] or found
        if not found:
            raise self._not_found(kind, name, same, records)
        if len(found) > 1:
            raise PluginConflictError(
                f"{printable(name)} could be any of: {', '.join(_full(record, kind) for record in found)}",
                remedy="Say which one, by its canonical name distribution/name"
                + ("." if kind is not None else ", and by its kind where that is not enough."),
            )
        return found[0]

    def load(self, record: PluginRecord, *, strict: bool = False) -> Any:
        """Import a plugin and return it, usually a class; None if it cannot be used.

        A plugin's fault becomes its status and reason, see `record`; with `strict`, it raises
        `PluginLoadError`, `PluginIncompatibleError`, `PluginTrustError` or `PluginConflictError`. Everything
        that importing it may raise is caught, sys.exit too, except KeyboardInterrupt. Under a lock its files
        are compared again right before the import, and each module once more when it is executed, now or
        later; bytecode caches are not read. A plugin is imported at most once.
        """
        key = _key(record)
        current = self.record(record)
        if key in self._plugins:
            return self._plugins[key]
        chosen = current.status is Status.CONFLICTING and record.status is Status.OK
        if (current.status is Status.OK or chosen) and self.lock is not None:
            current = _with_trust(current, check(current, self.lock))
        if current.status is Status.OK or (chosen and current.status is Status.CONFLICTING):
            from clipsec_registry._guard import guard, release
            from clipsec_registry._loading import load_offer

            by = current._offer.by
            if self.lock is None:
                release(by)
            else:
                guard(by, self.lock.distributions[by.name].files)
            try:
                loaded = load_offer(current._offer, current.canonical_name)
            except (PluginLoadError, PluginIncompatibleError) as error:
                status = Status.FAILED if isinstance(error, PluginLoadError) else Status.INCOMPATIBLE
                self._records[key] = _with(current, status, error.message, error.remedy)
                if strict:
                    raise self._error(key) from error.__cause__
                return None
            self._plugins[key] = loaded.plugin
            self._records[key] = attrs.evolve(
                current,
                status=Status.OK,
                reason=record.reason if chosen else current.reason,
                remedy="",
                loaded=True,
                api_version=loaded.api_version,
                summary=loaded.summary or current.summary,
            )
            return loaded.plugin
        self._records[key] = current
        if strict:
            raise self._error(key)
        return None

    def require(self, names: Iterable[str], *, load: bool = False) -> list[PluginError]:
        """What is wrong with plugins that must be there; empty when every one can be used.

        With `load`, each is imported too; otherwise a plugin that fails when imported is not noticed.
        """
        problems: list[PluginError] = []
        for name in names:
            try:
                record = self.find(None, name)
                if load:
                    self.load(record, strict=True)
                elif record.status is not Status.OK:
                    raise self._error(_key(record))
            except PluginError as error:
                problems.append(error)
        return problems

    def _error(self, key: _Key) -> PluginError:
        record = self._records[key]
        message = f"{record.canonical_name} is {record.status}: {record.reason}"
        return _ERRORS[record.status](message, remedy=record.remedy, plugin=record.canonical_name)

    def _not_found(
        self, kind: Kind | str | None, name: str, same: list[PluginRecord], records: tuple[PluginRecord, ...]
    ) -> PluginNotFoundError:
        from difflib import get_close_matches

        what = "plugin" if kind is None else f"plugin among the {Kind(kind)}"
        message = f"there is no {what} called {printable(name)}"
        known = {normalise(r.name): r.name for r in records} | {
            r.canonical_name: r.canonical_name for r in records
        }
        if same:
            offered = ", ".join(record.canonical_name for record in same)
            message += f"; the name is reserved, and {offered} is reached only by its canonical name"
            remedy = f"Run `pip install {reserved_for(name)}`, or ask for the other by its canonical name."
        elif close := get_close_matches(normalise(name), known, n=3):
            remedy = f"Did you mean {' or '.join(known[match] for match in close)}?"
        elif (owner := reserved_for(name)) is not None and "/" not in name:
            remedy = f"It comes with {owner}: run `pip install {owner}`."
        else:
            remedy = "See `clipsec list` for what is installed."
        return PluginNotFoundError(message, remedy=remedy, plugin=None)


def _key(record: PluginRecord) -> _Key:
    return record.kind, record.canonical_name


def _full(record: PluginRecord, kind: Kind | str | None) -> str:
    return record.canonical_name if kind is not None else f"{record.canonical_name} ({record.kind})"


def _with(record: PluginRecord, status: Status, reason: str, remedy: str) -> PluginRecord:
    return attrs.evolve(record, status=status, reason=reason, remedy=remedy)


def _with_trust(record: PluginRecord, problem: TrustProblem | None) -> PluginRecord:
    return record if problem is None else _with(record, Status.UNTRUSTED, problem.reason, problem.remedy)


def _is_impostor(record: PluginRecord) -> bool:
    return reserved_for(record.name) is not None and not record.first_party


def _by_full_name(record: PluginRecord) -> PluginRecord:
    if record.status is not Status.CONFLICTING:
        return record
    return _with(record, Status.OK, f"chosen by its canonical name; {record.reason}", "")


def _first_look(offer: Offer) -> PluginRecord:
    """Everything that one entry point and its metadata say by themselves."""
    point, by = offer.entry_point, offer.by
    record = PluginRecord(
        kind=offer.kind,
        name=printable(point.name, 80),
        distribution=by.name,
        version=by.version,
        value=printable(point.value if by.local is None else f"{by.local.path}:{point.attr}", 200),
        first_party=by.first_party,
        summary=by.summary,
        licence=by.licence,
        editable=by.project is not None,
        local=by.local is not None,
        reason=by.note,
        offer=offer,
    )
    authors = f"Report it to the authors of {by.name}; `pip uninstall {by.name}` removes it."
    if by.local is not None:
        return record
    if by.problem is not None:
        return _with(record, Status.UNTRUSTED, *by.problem)
    if not is_name(point.name):
        reason = "its name is not made of letters, digits, '.', '_' and '-'"
        return _with(record, Status.FAILED, reason, authors)
    module = module_of(point.value)
    if module is None:
        reason = f"its entry point {record.value or 'is empty: it'} is not of the form module:attribute"
        return _with(record, Status.FAILED, reason, authors)
    if locate(module) is None:
        reason = f"its module {module.split('.')[0]} is not there"
        return _with(record, Status.FAILED, reason, f"Run `pip install --force-reinstall {by.name}`.")
    if startup := startup_files(by):
        note = f"Python runs its {printable(startup[0], 80)} at every start, trusted or not"
        record = attrs.evolve(record, reason="; ".join(filter(None, [note, record.reason])))
    elsewhere = check_origin(offer)
    if elsewhere is None:
        return record
    if by.first_party:
        return _with_trust(record, elsewhere)
    # Unusual but legal for others: an entry point may name a module of a dependency.
    return attrs.evolve(record, reason="; ".join(filter(None, [elsewhere.reason, record.reason])))


def _resolve(records: list[PluginRecord], lock: Lock | None) -> list[PluginRecord]:
    """Hold the plugins against the lock and against each other."""
    if lock is not None:
        problems = {by: check_installation(by, lock) for by in {record._offer.by for record in records}}
        records = [
            record
            if record.status is Status.UNTRUSTED
            else _with_trust(record, problems[record._offer.by] or check_origin(record._offer))
            for record in records
        ]
    records = _without_repeats(records)
    usable = [record for record in records if record.status in (Status.OK, Status.CONFLICTING)]
    return [_with_conflicts(record, usable) for record in records]


def _without_repeats(records: list[PluginRecord]) -> list[PluginRecord]:
    times = Counter(map(_key, records))
    return [
        record
        if times[_key(record)] == 1 or record.status is Status.UNTRUSTED
        else _with(
            record,
            Status.FAILED,
            f"{record.distribution} offers it {times[_key(record)]} times",
            f"Report it to the authors of {record.distribution}.",
        )
        for record in records
    ]


def _with_conflicts(record: PluginRecord, usable: list[PluginRecord]) -> PluginRecord:
    if record.status is not Status.OK or record.local:
        return record
    by_full_name = f"Ask for it as {record.canonical_name}"
    if _is_impostor(record):
        return _with(
            record,
            Status.CONFLICTING,
            f"the name {record.name} is reserved for {reserved_for(record.name)}",
            f"{by_full_name}, if that is what you want.",
        )
    others = [
        other.canonical_name
        for other in usable
        if other.kind == record.kind
        and normalise(other.name) == normalise(record.name)
        and other.distribution != record.distribution
        and not other.local
        and not _is_impostor(other)
    ]
    if others:
        reason = f"{', '.join(others)} has the same name"
        return _with(record, Status.CONFLICTING, reason, f"{by_full_name}, or uninstall the other.")
    return record
