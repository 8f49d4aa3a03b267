"""The page that an audit writes beside its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.errors import StoreError
from clipsec.results import GateResult, Outcome, RunResult, SuspectCard, Verdict
from clipsec.runner._audit import REPORT_FILE, _write_report


def test_a_page_that_cannot_be_written_hides_no_result(tmp_path: Path) -> None:
    """The disk filled up after the last detector: the user is told where the answer is."""
    card = SuspectCard("model", "5f" * 32, "clip", "open_clip ViT-B-32", "gelu")
    verdicts = {"dist/check": Verdict(Outcome.FINDING, "found")}
    result = RunResult(card, verdicts, GateResult(True, {}), {}, "2026-01-01T00:00:00+00:00", 1.0)
    (tmp_path / REPORT_FILE).mkdir()
    with pytest.raises(StoreError, match="the result itself is stored") as caught:
        _write_report(result, tmp_path)
    assert f"clipsec report {tmp_path}" in caught.value.remedy
