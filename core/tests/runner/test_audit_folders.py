"""Where an audit keeps what later runs may reuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.runner._audit import default_shared_folder, usable_shared_folder


def test_results_are_shared_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be there yet."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    cache = tmp_path / "cache" / "clipsec" / "shared"
    assert usable_shared_folder(tmp_path / "runs") == default_shared_folder() == cache
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without a home: the runs' own folder, which has to be writable anyway, takes its place."""
    (tmp_path / "home").write_text("a file where the home should be")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "home" / ".cache" / name))
    assert usable_shared_folder(tmp_path / "runs") == tmp_path / "runs" / ".shared"
