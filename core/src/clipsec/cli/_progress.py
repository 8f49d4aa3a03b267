"""A progress bar a detector, with the time that is left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """Bars on stderr, so that stdout holds only results; nothing when stderr is not a terminal."""

    def __init__(self, suspect: str, *, enabled: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            # Classes are inverted a few at a time at a steady rate: a long window gives a calm estimate.
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (enabled and console.is_terminal),
            speed_estimate_period=120,
        )
        self._suspect, self._tasks = suspect, dict[str, TaskID]()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, detector: str, fraction: float, what: str) -> None:
        """Called by the runner, see `Context.progress`."""
        if detector not in self._tasks:
            self._tasks[detector] = self._progress.add_task("", total=1.0)
        text = escape(f"{self._suspect}: {detector.rpartition('/')[2]}, {what}")
        self._progress.update(self._tasks[detector], completed=fraction, description=text)
