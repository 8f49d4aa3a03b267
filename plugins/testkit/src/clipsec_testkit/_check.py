"""What a check is, and the checks that every kind of plugin shares."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.errors import UsageError
from clipsec.protocols import API_VERSION, Need
from clipsec.runner import make_options
from clipsec_registry import misfit, parse_api_range
from clipsec_testkit._watch import Watch, temporary_folder


class CheckFailed(Exception):
    """The plugin breaks a rule; the text says which and how."""


class CheckSkipped(Exception):
    """The rule could not be applied; the text says why. Never a pass."""


class CheckOutcome(enum.StrEnum):
    """How one check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class CheckResult:
    """One line of a conformance report."""

    check: str
    outcome: CheckOutcome
    why: str
    """The rule for a pass; what broke it, or why it could not be applied."""


QUIET = ("no_network", "no_stray_files", "no_children", "global_state")
"""The checks on what a plugin does beside its work, for the end of `names`."""


@attrs.define(eq=False)
class Battery:
    """The checks of one kind of plugin, run on one plugin. Subclasses add `check_*` methods.

    A check passes by returning, fails by raising `CheckFailed` or anything unexpected, and is skipped by
    `CheckSkipped`; its docstring is the rule.
    """

    make: Callable[[], Any]
    """The plugin's class, or a callable without arguments that makes one."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """What the author declares; see the conformance classes."""
    _folder: Path = attrs.field(init=False, repr=False)
    _runs: dict[str, Any] = attrs.field(factory=dict, init=False, repr=False)
    _place: int = attrs.field(default=0, init=False)

    names: ClassVar[tuple[str, ...]]
    """The checks, in the order in which they run."""
    known: ClassVar[frozenset[str]] = frozenset({"options"})
    """The settings that this kind takes."""

    def __attrs_post_init__(self) -> None:
        unknown = sorted(set(self.settings) - self.known)
        if unknown:
            raise UsageError(
                f"a conformance test has no setting {unknown[0]!r}",
                remedy=f"Its settings: {', '.join(sorted(self.known))}.",
            )
        self._folder = temporary_folder("clipsec-testkit-")

    def run(self, name: str) -> None:
        """Run one check; raises `CheckFailed` or `CheckSkipped`."""
        getattr(self, f"check_{name}")()

    def results(self) -> Iterator[CheckResult]:
        """Run every check."""
        for name in self.names:
            title = name.replace("_", " ")
            rule = rule_of(type(self), name)
            try:
                self.run(name)
            except CheckSkipped as skipped:
                yield CheckResult(title, CheckOutcome.SKIPPED, str(skipped))
            except CheckFailed as failed:
                yield CheckResult(title, CheckOutcome.FAILED, str(failed))
            except (Exception, SystemExit) as error:
                yield CheckResult(title, CheckOutcome.FAILED, f"{type(error).__name__}: {error}")
            else:
                yield CheckResult(title, CheckOutcome.PASSED, rule)

    # For subclasses

    def plugin(self) -> Any:
        """A new instance."""
        return self.make()

    def fact(self, name: str) -> Any:
        """A class attribute of the plugin, or `CheckFailed`."""
        missing = object()
        value = getattr(self.plugin(), name, missing)
        if value is missing:
            raise CheckFailed(f"the plugin states no {name}")
        return value

    def options(self) -> Any:
        """The options for the controls: the author's `options` over the defaults."""
        return make_options(self.fact("options"), self.settings.get("options", {}), "the plugin")

    def new_folder(self) -> Path:
        """An empty folder of this battery's own."""
        self._place += 1
        folder = self._folder / f"{self._place:03d}"
        folder.mkdir()
        return folder

    def check_common_facts(self) -> None:
        """Check what plugins of every kind state."""
        summary = self.fact("summary")
        if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
            raise CheckFailed(f"summary must be one line of text, not {summary!r}")
        version = self.fact("api_version")
        accepted = parse_api_range(version)
        if accepted is None:
            raise CheckFailed(
                f"api_version must be a text like '{API_VERSION}' or '>=1.0,<3.0', not {version!r}"
            )
        if (wrong := misfit(accepted, "the plugin")) is not None:
            raise CheckFailed(f"api_version: {wrong[0]}")

    def check_facts(self) -> None:
        """It states a summary, its API version, its needs and its references."""
        self.check_common_facts()
        needs = self.fact("needs")
        strangers = [need for need in needs if not isinstance(need, Need)]
        if not isinstance(needs, frozenset) or strangers:
            raise CheckFailed(f"needs must be a frozenset of clipsec.protocols.Need, not {needs!r}")
        references = self.fact("references")
        if not isinstance(references, tuple) or not all(isinstance(each, str) for each in references):
            raise CheckFailed(f"references must be a tuple of texts, not {references!r}")

    def check_options(self) -> None:
        """Its options have defaults, can be given as text, and unknown ones are refused."""
        kind = self.fact("options")
        if not (inspect.isclass(kind) and attrs.has(kind)):
            raise CheckFailed(f"options must be an attrs class, not {kind!r}")
        bare = [field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING]
        if bare:
            raise CheckFailed(f"the option {bare[0]!r} has no default")
        default = kind()
        texts = {field.name: _as_text(getattr(default, field.name)) for field in attrs.fields(kind)}
        again = make_options(kind, texts, "the plugin")
        for field in attrs.fields(kind):
            before, after = getattr(default, field.name), getattr(again, field.name)
            if before != after:
                raise CheckFailed(
                    f"the option {field.name!r} is {before!r}, but {after!r} once written and read as text"
                )
        try:
            make_options(kind, {"no_such_option": "1"}, "the plugin")
        except UsageError:
            return
        raise CheckFailed("an option that does not exist is accepted")

    def check_no_network(self) -> None:
        """It does not reach for the network."""
        self.require_quiet(self._watches(), "network", "it tries to reach the network")

    def check_no_stray_files(self) -> None:
        """It writes nothing outside of its folder, and leaves no temporary file."""
        self.require_quiet(self._watches(), "writes", "it writes outside of its folder")

    def check_no_children(self) -> None:
        """It leaves no process and no thread behind."""
        self.require_quiet(self._watches(), "children", "it leaves something running")

    def check_global_state(self) -> None:
        """It leaves the program's settings as they were: random generators, grad mode, dtype, threads,
        folder, environment."""
        self.require_quiet(self._watches(), "state", "it changes what belongs to the whole program")

    def _watches(self) -> Mapping[str, Watch]:
        """What was seen of each run, by the run's name."""
        raise NotImplementedError

    def require_quiet(self, watches: Mapping[str, Watch], what: str, rule: str) -> None:
        """Fail when any of these runs has something on its list `what`."""
        if not watches:
            raise CheckSkipped("nothing ran: see the controls")
        for name, watch in watches.items():
            seen = getattr(watch, what)
            if seen:
                more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
                raise CheckFailed(f"{rule} ({name}): {seen[0]}{more}")


def rule_of(battery: type[Battery], name: str) -> str:
    """The rule that a check holds a plugin to, one line."""
    documentation = inspect.getdoc(getattr(battery, f"check_{name}")) or ""
    return " ".join(documentation.partition("\n\n")[0].split())


def _as_text(value: Any) -> str:
    """An option's value as a command line would give it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
