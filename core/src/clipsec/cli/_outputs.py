"""What `clipsec run` and `clipsec report` say, where, and with which exit code."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from clipsec.errors import ClipsecError, UsageError

if TYPE_CHECKING:
    from clipsec.results import Outcome, RunResult
    from clipsec_registry import Registry

_Command = TypeVar("_Command", bound=Callable[..., Any])
_NEVER = "never"
SEVERITY = (1, 2, 3, 0)
"""Exit codes from the most to the least serious."""


def exit_options(command: _Command) -> _Command:
    """`--fail-on` and `--baseline`."""
    command = click.option(
        "--baseline",
        metavar="RUN",
        help="An earlier run (its folder, a copy of its run.json, or a folder of runs): findings that it has"
        " too do not fail.",
    )(command)
    return click.option(
        "--fail-on",
        multiple=True,
        type=click.Choice(["finding", "inconclusive", "error", "skipped", _NEVER]),
        help="Outcomes that make an exit code other than 0 (repeatable); an error always does, unless"
        " `never` is given.  [default: finding, error, inconclusive]",
    )(command)


def parse_fail_on(names: Sequence[str]) -> frozenset[Outcome]:
    """The outcomes that count. Who wants findings alone still hears of a check that crashed."""
    from clipsec.results import FAIL_ON, Outcome

    if not names:
        return FAIL_ON
    if _NEVER in names:
        if set(names) != {_NEVER}:
            raise UsageError(
                "--fail-on never excludes every other outcome", remedy="Give never alone, or leave it out."
            )
        return frozenset()
    return frozenset(map(Outcome, names)) | {Outcome.ERROR}


def read_baselines(path: str | None, runs: str | None = None) -> dict[str, RunResult]:
    """The runs of a baseline, by the digest of their suspect.

    Raises `UsageError` for a baseline inside `runs`, which the audit itself would overwrite: what is new now
    would be known the next time. Raises `StoreError` for what cannot be read.
    """
    from clipsec.store import RunStore, read_run

    if path is None:
        return {}
    place = Path(path)
    if runs is not None and place.resolve().is_relative_to(Path(runs).resolve()):
        raise UsageError(
            f"the baseline {path} lies among the runs that this audit writes to",
            remedy="Copy its run.json somewhere else, e.g. to baseline.json, or choose another --runs.",
        )
    several = RunStore(place).runs() if place.is_dir() and not (place / "run.json").exists() else []
    found = [run.read_result() for run in several] or [read_run(place)]
    return {result.suspect.digest: result for result in found}


@attrs.define
class Outputs:
    """Renders every result in the formats asked for, and keeps the exit code."""

    shown: str
    """Name of the format on stdout."""
    shown_class: Any
    files: list[tuple[str, Any, Path]]
    """(format, its class, where to)."""
    baselines: dict[str, RunResult]
    fail_on: frozenset[Outcome]
    verbose: bool = False
    _results: list[RunResult] = attrs.field(factory=list, init=False)
    _codes: list[int] = attrs.field(factory=list, init=False)

    @classmethod
    def of(
        cls,
        shown: str,
        reports: Iterable[str],
        registry: Registry,
        *,
        baselines: dict[str, RunResult] | None = None,
        fail_on: Sequence[str] = (),
        verbose: bool = False,
        several: bool = False,
    ) -> Outputs:
        """Find the formats before anything runs. Raises `UsageError` or `PluginError`."""
        from clipsec.reports import can_join, find_format

        files = []
        for text in reports:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise UsageError(
                    f"{text!r} names no report", remedy="Write FORMAT=PATH, e.g. sarif=clipsec.sarif."
                )
            files.append((name, find_format(name, registry), Path(path)))
        for name, format_class, _ in files:
            if several and not can_join(format_class):
                raise UsageError(
                    f"a report of the format {name} holds one model",
                    remedy="Audit one model a command, or render each run later: clipsec report RUN.",
                )
        return cls(
            shown,
            find_format(shown, registry),
            files,
            baselines or {},
            parse_fail_on(fail_on),
            verbose,
        )

    def add(self, result: RunResult) -> None:
        """Show a finished run, unless its format shows all at the end."""
        from clipsec.reports import exit_sentence, render_console
        from clipsec.results import counted_outcomes, exit_code

        baseline = self.baselines.get(result.suspect.digest)
        if self.baselines and baseline is None:
            _say(f"The baseline has no run of {result.suspect.name} as it is now: every finding is new.")
        self._results.append(result)
        code = exit_code(counted_outcomes(result, baseline), self.fail_on)
        self._codes.append(code)
        if self.shown == "console":
            render_console(result, verbose=self.verbose, baseline=baseline, fail_on=self.fail_on)
        else:
            if code != result.exit_code:
                _say(exit_sentence(result, baseline, self.fail_on))
            if not self._shows_at_end:
                self._print([result])

    def add_failure(self, spec: str, error: BaseException) -> None:
        """Keep an audit that could not be made; reports must not look as if nobody had asked for it."""
        self._results.append(not_audited(spec, error))
        self._codes.append(2)

    def finish(self) -> int:
        """Write what waits for the end; returns the exit code. A report that fails costs itself only."""
        from clipsec.store import atomic_write

        if self._shows_at_end and self._results:
            self._print(self._results)
        for name, format_class, path in self.files:
            try:
                atomic_write(path, self._text(format_class, self._results).encode())
            except ClipsecError as error:
                self._codes.append(2)
                say_failure(f"{name} report", error)
        return next((code for code in SEVERITY if code in self._codes), 3)

    @property
    def _shows_at_end(self) -> bool:
        from clipsec.reports import can_join

        return self.shown != "console" and can_join(self.shown_class)

    def _print(self, results: Sequence[RunResult]) -> None:
        try:
            text = self._text(self.shown_class, results)
        except ClipsecError as error:
            self._codes.append(2)
            say_failure(f"{self.shown} report", error)
            for result in results:
                if result.folder:
                    _say(f"The run is in {result.folder}.")
        else:
            click.echo(text, nl=not text.endswith("\n"))

    def _text(self, format_class: Any, results: Sequence[RunResult]) -> str:
        from clipsec.reports import join_reports, render_report

        texts = [
            render_report(
                format_class,
                result,
                result.folder or ".",
                baseline=self.baselines.get(result.suspect.digest),
            )
            for result in results
        ]
        return join_reports(format_class, texts)


def not_audited(spec: str, error: BaseException) -> RunResult:
    """A run that stands in for one that could not be made, e.g. of a model that cannot be loaded."""
    from clipsec.results import ErrorRecord, GateResult, Outcome, RunResult, SuspectCard, Verdict
    from clipsec.runner import environment

    record = ErrorRecord(type(error).__name__, str(error), str(getattr(error, "remedy", "")))
    return RunResult(
        suspect=SuspectCard(spec, digest="", kind="not audited", architecture="", activation=""),
        verdicts={"clipsec/audit": Verdict(Outcome.ERROR, "the audit could not be made", error=record)},
        gate=GateResult(False, {}, "the model was not audited"),
        environment=environment(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=0.0,
    )


def say_failure(what: str, error: BaseException) -> None:
    """An error that does not end the command, in two sentences on stderr."""
    _say(f"{what}: {error}")
    remedy: Any = getattr(error, "remedy", "")
    if remedy:
        _say(f"What to do: {remedy}")


def _say(text: str) -> None:
    from clipsec.cli._main import printable

    click.echo(printable(text), err=True)
