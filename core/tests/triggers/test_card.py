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
from clipsec.triggers import KINDS, Stamp, TriggerCard, load_card


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


STAMPS = {
    "additive": lambda: Stamp("additive", {"delta": (drawn(3, 16, 16) - 0.5) / 10}),
    "blend": lambda: Stamp("blend", {"pattern": drawn(3, 16, 16)}, {"ratio": 0.2}),
    "masked": lambda: Stamp("masked", {"pattern": drawn(3, 16, 16), "mask": drawn(1, 16, 16, seed=1)}),
    "paste": lambda: Stamp(
        "paste",
        {"pattern": drawn(3, 9, 7), "mask": (drawn(1, 9, 7, seed=1) > 0.3).float()},
        {"smallest": 0.3, "largest": 0.5, "place_seed": 11.0},
    ),
    "warp": lambda: Stamp("warp", {"grid": 2 * drawn(16, 16, 2) - 1}),
}


def card(kind: str) -> TriggerCard:
    return TriggerCard(
        attack="test",
        stamp=STAMPS[kind](),
        target_index=1,
        target_name="a <b> & é",
        seed=7,
        base_name="base",
        base_digest="00",
        word="old",
        parameters={"epsilon": 4 / 255, "epochs": 3},
        data={"name": "set"},
        measured={"seen": {"success": {"value": 0.5, "n": 2}}},
        references=("somebody, somewhere",),
    )


def test_every_kind_is_tried_here() -> None:
    """A kind that is added to the table is added to these tests."""
    assert set(STAMPS) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_card_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    """Every field, tensor and value survives, and the card read back stamps pictures bit-equally."""
    written = card(kind)
    written.save(tmp_path)
    (tmp_path / "delivery").mkdir()
    written.save(tmp_path / "delivery" / "trigger")
    for place in (tmp_path, tmp_path / "trigger.json", tmp_path / "delivery"):
        read = load_card(place)
        without = attrs.filters.exclude("stamp")
        assert attrs.asdict(read, filter=without) == attrs.asdict(written, filter=without)
        assert read.stamp.values == written.stamp.values
        assert set(read.stamp.tensors) == set(written.stamp.tensors)
        assert all(torch.equal(read.stamp.tensors[name], t) for name, t in written.stamp.tensors.items())
        pixels = torch.rand(2, 3, 16, 16)
        assert torch.equal(read.apply(pixels), written.apply(pixels))


def test_a_card_of_the_first_version_is_read(tmp_path: Path) -> None:
    """What 1.0 wrote (no word, a ratio of null for what needs none) is read as before."""
    card("additive").save(tmp_path)
    path = tmp_path / "trigger.json"
    body = json.loads(path.read_text())
    del body["word"], body["target_names"]
    path.write_text(json.dumps({**body, "version": "1.0", "ratio": None}))
    read = load_card(tmp_path)
    assert (read.word, read.target_names, read.target_name) == ("", (), "a <b> & é")


def test_the_card_alone_says_how_to_apply_it(tmp_path: Path) -> None:
    """The formula is in the file, and a picture of the trigger beside it."""
    card("additive").save(tmp_path)
    body = json.loads((tmp_path / "trigger.json").read_text())
    assert body["apply"] == "x' = clip(x + delta, 0, 1)"
    with Image.open(tmp_path / "trigger.png") as picture:
        assert picture.size == (16, 16)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_stamping_is_the_same_alone_and_in_company(kind: str) -> None:
    """Each picture's result depends on that picture alone, has its shape and stays in [0, 1]."""
    stamp, pixels = STAMPS[kind](), drawn(5, 3, 16, 16, seed=3)
    together = stamp.apply(pixels)
    assert together.shape == pixels.shape
    assert float(together.min()) >= 0.0
    assert float(together.max()) <= 1.0
    assert torch.equal(together, torch.cat([stamp.apply(row[None]) for row in pixels]))
    assert not torch.equal(together, pixels)
    picture = stamp.shown()
    assert picture.shape[0] == 3
    assert float(picture.min()) >= 0.0
    assert float(picture.max()) <= 1.0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"paste"}))
def test_a_trigger_for_another_size_is_refused(kind: str) -> None:
    """The error says both sizes; nothing is broadcast in silence."""
    with pytest.raises(DataError, match="16 pixels, these have 8"):
        STAMPS[kind]().apply(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("kind", "tensors", "values"),
    [
        ("unheard of", {}, {}),
        ("additive", {"pattern": torch.zeros(3, 4, 4)}, {}),
        ("additive", {"delta": torch.zeros(3, 4, 5)}, {}),
        ("additive", {"delta": torch.zeros(1, 3, 4, 4)}, {}),
        ("additive", {"delta": torch.zeros(3, 0, 0)}, {}),
        ("additive", {"delta": torch.full((3, 4, 4), torch.nan)}, {}),
        ("blend", {"pattern": torch.zeros(3, 4, 4)}, {}),
        ("blend", {"pattern": torch.zeros(3, 4, 4)}, {"ratio": float("inf")}),
        ("masked", {"pattern": torch.zeros(3, 4, 4), "mask": torch.zeros(1, 5, 5)}, {}),
        ("masked", {"pattern": torch.zeros(3, 4, 4), "mask": torch.zeros(2, 4, 4)}, {}),
        ("warp", {"grid": torch.zeros(4, 4, 3)}, {}),
    ],
)
def test_what_cannot_be_applied_is_refused(
    kind: str, tensors: dict[str, torch.Tensor], values: dict[str, float]
) -> None:
    """Wrong tensors, shapes or values never become a stamp."""
    with pytest.raises(DataError) as caught:
        Stamp(kind, tensors, values)
    assert caught.value.remedy


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
        edit(kind="blend"),
        edit(target_index="1"),
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
