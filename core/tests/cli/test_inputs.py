"""What several verbs read from the command line."""

from __future__ import annotations

import pytest

from clipsec.cli._inputs import parse_options
from clipsec.errors import UsageError


def test_options_belong_to_the_name_before_the_last_dot() -> None:
    """Labels, distributions and values may hold dots, slashes and equals signs."""
    given = ("a.x=1", "a.y=b=c", "dist.one/a@fine.x=1.5", "a.x=2")
    assert parse_options(given) == {"a": {"x": "2", "y": "b=c"}, "dist.one/a@fine": {"x": "1.5"}}


@pytest.mark.parametrize("text", ["", "x=1", "a.x", ".x=1", "a.=1", "a=x.y"])
def test_what_is_no_option_is_refused(text: str) -> None:
    """An option that is silently dropped would leave the default in force."""
    with pytest.raises(UsageError, match="is not an option"):
        parse_options([text])
