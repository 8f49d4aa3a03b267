"""Folders that are wholly there or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.errors import StoreError
from clipsec.store import whole_folder


def write(place: Path, error: BaseException | None = None) -> None:
    with whole_folder(place) as folder:
        (folder / "file").touch()
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "seen"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(), StoreError)]
)
def test_interrupted_it_leaves_nothing(
    tmp_path: Path, error: BaseException, seen: type[BaseException]
) -> None:
    """Neither the folder nor a temporary one."""
    with pytest.raises(seen):
        write(tmp_path / "a" / "b", error)
    assert not any((tmp_path / "a").iterdir())


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    """Only nothing or an empty folder is written onto."""
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    write(place)
    assert [path.name for path in sorted((tmp_path / "a").rglob("*"))] == ["b", "file"]
    with pytest.raises(StoreError, match="exists already"):
        write(place)
