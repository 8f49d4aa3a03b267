"""Text that plugins supply, made safe to show, and what an exception says."""

from __future__ import annotations

import traceback
from pathlib import Path


def printable(text: object, limit: int = 300) -> str:
    """One line without control, direction or other invisible characters, at most `limit` long.

    A distribution's metadata reaches terminals and logs; escape sequences in it must arrive as text.
    """
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def describe(error: BaseException, home: Path | None = None) -> str:
    """The type, message and place (`package/module.py:12`, inside `home`) of what a plugin raised."""
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({_message(error)}) while being imported"
    else:
        text = f"{printable(type(error).__name__, 80)}: {_message(error)}".rstrip(": ")
    place = _place(error, home) if home is not None else None
    return f"{text} ({place})" if place else text


def _message(error: BaseException) -> str:
    try:
        # A syntax error's str() repeats the file and line, which `describe` adds in a form of its own.
        return printable(error.msg if isinstance(error, SyntaxError) else error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "its message cannot be shown"


def _place(error: BaseException, home: Path) -> str | None:
    base = home.parent
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and isinstance(error.filename, str) and isinstance(error.lineno, int):
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        path = Path(name)
        if path == home or home in path.parents:
            return f"{printable(path.relative_to(base).as_posix())}:{line}"
    return None
