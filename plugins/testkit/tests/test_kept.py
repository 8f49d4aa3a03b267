"""What is kept between programs is the same to the last bit, and never worse than trained anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipsec_testkit._kept import FOLDER, kept

WEIGHTS = {"ctx": torch.linspace(0, 1, 7), "linear": torch.full((3, 2), 1e-30).T}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Who was trained, in order, while there is a folder."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "toys"))
    return []


def toy(name: str, trained: list[str]) -> dict[str, Tensor]:
    def train() -> dict[str, Tensor]:
        trained.append(name)
        return {key: tensor.clone() for key, tensor in WEIGHTS.items()}

    found = kept(name, train)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in WEIGHTS.items())
    return found


def test_each_toy_is_trained_once(trained: list[str]) -> None:
    """Names are kept apart; what is read may be changed without changing what is kept."""
    for name in ("clean", "visual", "clean", "visual"):
        toy(name, trained)["ctx"].zero_()
    assert trained == ["clean", "visual"]


def test_a_file_that_cannot_be_read_is_made_again(trained: list[str], tmp_path: Path) -> None:
    """Cut off, or not of this format."""
    for damage in (lambda data: data[:-5], lambda data: b"rubbish"):
        toy("clean", trained)
        (path,) = (tmp_path / "toys").iterdir()
        path.write_bytes(damage(path.read_bytes()))
    toy("clean", trained)
    toy("clean", trained)
    assert trained == ["clean"] * 3


def test_another_recipe_is_another_toy(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, libraries and processor decide the bits."""
    toy("clean", trained)
    monkeypatch.setattr("clipsec_testkit._kept._recipe", lambda: "other")
    toy("clean", trained)
    assert len(trained) == 2


def test_without_the_folder_nothing_is_written(
    trained: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As for whoever does not ask for it."""
    monkeypatch.delenv(FOLDER)
    monkeypatch.chdir(tmp_path)
    toy("clean", trained)
    toy("clean", trained)
    assert len(trained) == 2
    assert list(tmp_path.iterdir()) == []
