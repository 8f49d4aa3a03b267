"""What several verbs read from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.cli._inputs import parse_options, read_class_names
from clipsec.errors import DataError, UsageError


def test_options_belong_to_the_name_before_the_last_dot() -> None:
    """Labels, distributions and values may hold dots, slashes and equals signs."""
    given = ("a.x=1", "a.y=b=c", "dist.one/a@fine.x=1.5", "a.x=2")
    assert parse_options(given) == {"a": {"x": "2", "y": "b=c"}, "dist.one/a@fine": {"x": "1.5"}}


@pytest.mark.parametrize("text", ["", "x=1", "a.x", ".x=1", "a.=1", "a=x.y"])
def test_what_is_no_option_is_refused(text: str) -> None:
    """An option that is silently dropped would leave the default in force."""
    with pytest.raises(UsageError, match="is not an option"):
        parse_options([text])


def test_a_file_without_a_class_name_is_refused(tmp_path: Path) -> None:
    """It would read as if no --classes had been given."""
    (tmp_path / "names.txt").write_text("# cat\n\n")
    with pytest.raises(DataError, match="holds no class name"):
        read_class_names(str(tmp_path / "names.txt"))
    assert read_class_names(None) is None
