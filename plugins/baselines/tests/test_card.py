"""Trigger cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image

from clipsec.errors import DataError
from clipsec_baselines import TriggerCard, load_card


def card(kind: str) -> TriggerCard:
    tensor = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    return TriggerCard(
        attack="test",
        kind=kind,
        tensor=tensor if kind == "blend" else (tensor - 0.5) / 10,
        ratio=0.2 if kind == "blend" else None,
        target_index=1,
        target_name="a <b> & é",
        seed=7,
        base_name="base",
        base_digest="00",
        parameters={"epsilon": 4 / 255, "epochs": 3},
        data={"name": "set"},
        measured={"seen": {"success": {"value": 0.5, "n": 2}}},
        references=("somebody, somewhere",),
    )


@pytest.mark.parametrize("kind", ["additive", "blend"])
def test_a_card_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    """Every field and the tensor survive, and the card read back stamps pictures bit-equally."""
    written = card(kind)
    written.save(tmp_path)
    for place in (tmp_path, tmp_path / "trigger.json"):
        read = load_card(place)
        without = attrs.filters.exclude("tensor")
        assert attrs.asdict(read, filter=without) == attrs.asdict(written, filter=without)
        assert torch.equal(read.tensor, written.tensor)
        pixels = torch.rand(2, 3, 16, 16)
        assert torch.equal(read.apply(pixels), written.apply(pixels))


def test_the_card_alone_says_how_to_apply_it(tmp_path: Path) -> None:
    """A reader that knows the two kinds and no attack stamps the same picture from the two files."""
    card("additive").save(tmp_path)
    body = json.loads((tmp_path / "trigger.json").read_text())
    assert body["apply"] == "x' = clip(x + delta, 0, 1)"
    with Image.open(tmp_path / "trigger.png") as picture:
        assert picture.size == (16, 16)


def truncate(folder: Path) -> None:
    path = folder / "trigger.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def edit(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "trigger.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        edit(format="something else"),
        edit(version="2.0"),
        edit(kind="unheard of"),
        edit(tensors={"file": "/etc/passwd", "sha256": ""}),
        edit(tensors={}),
        lambda folder: (folder / "trigger.json").write_text("{"),
        lambda folder: (folder / "trigger.json").write_text("[]"),
        lambda folder: (folder / "trigger.json").unlink(),
    ],
)
def test_a_damaged_card_is_refused_with_a_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whatever is wrong with the files, the error is ours and says what to do."""
    card("additive").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        load_card(tmp_path)
    assert caught.value.remedy
