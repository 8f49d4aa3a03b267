"""What `clipsec bench` says of units that failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from clipsec.cli._bench import failures


def line(state: str, reason: str) -> SimpleNamespace:
    return SimpleNamespace(state=state, reason=reason, reasons=(reason,) if reason else ())


def test_each_reason_is_said_once_with_how_often() -> None:
    """Models, verdicts and repairs alike; what is there or is still to come is no failure."""
    result = SimpleNamespace(
        models=(line("built", "success 0.2 is not above 0.85"), line("failed", "no space left")),
        verdicts=(line("failed", "the gate failed"), line("failed", "the gate failed"), line("answered", "")),
        repairs=(line("missing", "not yet"), line("failed", "no\x1b[2Jspace")),
    )
    assert failures(cast(Any, result)) == [
        "2 failed: the gate failed",
        "1 failed: no space left",
        "1 failed: no\N{REPLACEMENT CHARACTER}[2Jspace",
    ]
