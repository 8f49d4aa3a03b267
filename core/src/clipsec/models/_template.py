"""Sentences that class names are put into."""

from __future__ import annotations

from clipsec.errors import UsageError


def check_template(instance: object, field: object, value: str) -> None:
    """A validator for options. Raises `UsageError` unless there is one place for a class name."""
    if value.count("{}") != 1:
        raise UsageError(
            f"the template {value!r} has no single place for a class name",
            remedy='Write {} once, e.g. template="a photo of a {}."',
        )
