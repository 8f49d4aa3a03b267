"""Where the shipped files and, if they lie beside the checkout, the real data sets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[1] / "src" / "clipsec_zoo" / "data"


@pytest.fixture
def shipped() -> Path:
    return SHIPPED


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "clipsec" / "zoo"


@pytest.fixture(scope="session")
def data() -> Path:
    """The data sets: CLIPSEC_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("CLIPSEC_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (folder / "pretrain" / "pairs.csv").is_file():
        pytest.skip(f"needs the data sets; there is no {folder} (set CLIPSEC_DATA)")
    return folder
