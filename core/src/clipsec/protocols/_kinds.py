"""The protocols a plugin fulfils. Facts are class attributes; the work is one method on a frozen context."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from clipsec.models import LoadRequest, Suspect
    from clipsec.protocols._context import AttackContext, Context
    from clipsec.protocols._interface import InterfaceCard
    from clipsec.results import Measurement, RunResult, Verdict
    from clipsec.scheduler import Problem


class Need(enum.StrEnum):
    """What a plugin needs of a suspect or of its surroundings."""

    IMAGE_TOWER = "image tower"
    TEXT_TOWER = "text tower"
    PROMPT_HEAD = "prompt head"
    CLASS_NAMES = "class names"
    CLEAN_REFERENCE = "clean reference"
    IMAGE_POOL = "image pool"
    LABELS = "labels"


class Plugin(Protocol):
    """Facts that every plugin states."""

    summary: ClassVar[str]
    """One line, shown by `clipsec list --load`."""
    api_version: ClassVar[str]
    """The API it was written for, e.g. `1.0`, which accepts every later `1.x`; or the range that it accepts,
    e.g. `>=1.0,<3.0`, when the author has tried it with a later major version."""
    needs: ClassVar[frozenset[Need]]
    options: ClassVar[type]
    """An attrs class with a default for every field; `context.options` is an instance."""
    references: ClassVar[tuple[str, ...]]


@runtime_checkable
class Detector(Plugin, Protocol):
    """Says whether a suspect is backdoored."""

    def detect(self, context: Context) -> Verdict | Problem:
        """A verdict, or (better) a generator that yields scheduler requests and returns a verdict.

        A generator shares tower calls with every other detector of the run. Raise `NotApplicableError` to
        be skipped; any other exception makes the verdict `error`.
        """
        ...


@runtime_checkable
class Attack(Plugin, Protocol):
    """Makes a poisoned model and its trigger card, to test detectors with."""

    def poison(self, context: AttackContext) -> Path:
        """Write a delivery folder with a `trigger.json` card into `context.output`; returns the folder."""
        ...


@runtime_checkable
class Interface(Plugin, Protocol):
    """A use of a CLIP model through which a backdoor could hurt."""

    card: ClassVar[InterfaceCard]
    """What a measurement is about; whether a trigger makes sense here is computed from it."""

    def measure(self, context: Context) -> Measurement | Problem:
        """One condition of one model: for every case, whether the target event happened.

        Better than a measurement is a generator that yields scheduler requests (`Encode`) and returns it:
        interfaces that run together then share tower calls, and features are computed once. It is called up
        to four times for a cell, with `context.suspect` the suspect or the clean reference, and
        `context.triggered` on or off; and again for hybrids of both. Which cases there are may depend on the
        seed, the pictures, the captions, the options, the class names and the trigger, never on
        `context.suspect`'s weights or on `context.triggered`: case i of all four must be the same case.
        Without the trigger it also says, in `Measurement.utility`, how well the clean use works.

        It loads nothing and runs no tower itself; `clipsec.exposure` has generators that encode pictures and
        texts. Raise `NotApplicableError` when there are too few pictures or captions for a case.
        """
        ...


@runtime_checkable
class Repair(Plugin, Protocol):
    """Makes a repaired model from a suspect and a finding."""

    def repair(self, context: Context) -> Path | Problem:
        """Write a delivery that loads like any other, to `context.output`; returns its folder.

        Or, to share tower calls and features, a generator that yields scheduler requests and returns the
        folder. `context.labelled` has the suspect's classes, in its order; the pictures and captions that the
        result is measured on are kept from the repair. `context.suspect.base_spec` names the base for the new
        delivery. There is a finding unless the class says `needs_finding = False`, or the user names a known
        trigger (`context.trigger`). Raise `NotApplicableError` when there is nothing that it can repair.
        """
        ...


@runtime_checkable
class ModelLoader(Protocol):
    """Turns a spec or a path into a suspect."""

    summary: ClassVar[str]
    api_version: ClassVar[str]

    def matches(self, spec: str) -> bool:
        """Whether this loader wants the spec. Must not read more than a directory listing and a header."""
        ...

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        """Load it, on the CPU, in fp32, without executing anything that the files contain.

        Raises `ModelError` with a remedy.
        """
        ...


@runtime_checkable
class ReportFormat(Protocol):
    """Renders a run: `clipsec report RUN --format NAME`, `clipsec run SUSPECT --report NAME=PATH`.

    Two things are optional. A `render` that takes a keyword `baseline` (a `RunResult` or None) gets the run
    given with `--baseline`. A method `join(texts: Sequence[str]) -> str` makes one document of several, for
    `clipsec run` with several suspects.
    """

    summary: ClassVar[str]
    api_version: ClassVar[str]
    suffix: ClassVar[str]
    """Of a file that holds the report, e.g. `.csv`."""

    def render(self, result: RunResult, folder: Path) -> str:
        """The report as text. `folder` is where the run lies, for its pictures and tables.

        Texts in `result` come from models and plugins and may hold anything. An exception costs this report
        only; the run is stored before.
        """
        ...
