"""A progress bar for the unit of a bench that is being worked on."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from clipsec.bench import Watcher
from clipsec.reports._text import duration, visible


class UnitBar(Watcher):
    """One bar on stderr for the unit that a bench works on, and a line for each that has ended."""

    def __init__(self, *, enabled: bool) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._enabled = enabled
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> UnitBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def working(self, unit: str, fraction: float, what: str, left: float | None) -> None:
        """See `Watcher`."""
        if self._task is None:
            self._task = self._progress.add_task("", total=1.0, left="")
        rest = "" if left is None else f"{duration(round(left))} left in all"
        self._progress.update(
            self._task, completed=fraction, description=escape(f"{unit}: {what}"), left=rest
        )

    def said(self, line: str) -> None:
        """See `Watcher`."""
        if self._enabled:
            self._console.print(escape(visible(line, longest=2000)))
