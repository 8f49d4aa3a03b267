from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsec.data import ImagePool, LabelledSet, TextPool, read_lines
from clipsec.errors import DataError, EmptyPoolError
from clipsec.models import ImageSpec

SPEC = ImageSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(12):
        write_picture(tmp_path / "pool" / f"{i:02d}.png", i)
    return tmp_path / "pool"


def test_pool_is_sorted_and_uint8(folder: Path) -> None:
    """A pool's order is that of the relative paths and its pixels are uint8 squares."""
    pool = ImagePool.from_folder(folder)
    assert [path.name for path in pool.paths] == sorted(path.name for path in folder.iterdir())
    assert pool.pixels(SPEC).shape == (12, 3, 16, 16)
    assert pool.pixels(SPEC).dtype is torch.uint8


def test_a_folder_that_may_not_be_read_is_no_smaller_pool(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be looked into is not left out in silence."""
    write_picture(folder / "more" / "x.png")
    look = os.scandir

    def refuse(place: str) -> object:
        if Path(place).name == "more":
            raise PermissionError(13, "Permission denied", place)
        return look(place)

    monkeypatch.setattr(os, "scandir", refuse)  # root, who runs tests in containers, may read everything
    with pytest.raises(DataError, match="more cannot be read: Permission denied"):
        ImagePool.from_folder(folder)


def test_digest_is_by_content(folder: Path, tmp_path: Path) -> None:
    """Renaming the folder keeps a pool's digest; changing one picture changes it."""
    before = ImagePool.from_folder(folder).digest
    moved = folder.rename(tmp_path / "elsewhere")
    assert ImagePool.from_folder(moved).digest == before
    write_picture(moved / "03.png", 99)
    assert ImagePool.from_folder(moved).digest != before


def test_row_keys_differ_between_transforms(folder: Path) -> None:
    """The same picture at two sizes is two rows."""
    pool = ImagePool.from_folder(folder)
    other = ImageSpec(size=8, mean=SPEC.mean, std=SPEC.std)
    assert not set(pool.row_keys(SPEC)) & set(pool.row_keys(other))


def test_limit_is_a_seeded_subset(folder: Path) -> None:
    """A limited pool is drawn by its seed and is the same each time."""
    drawn = [ImagePool.from_folder(folder, limit=5, seed=seed).paths for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


def test_empty_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """No picture means EmptyPoolError, and it says what to bring."""
    with pytest.raises(EmptyPoolError) as caught:
        ImagePool.from_folder(tmp_path)
    assert "pictures" in caught.value.remedy


def test_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    """A folder that does not exist is named in the error."""
    with pytest.raises(DataError, match="nowhere"):
        ImagePool.from_folder(tmp_path / "nowhere")


def test_one_broken_picture_is_left_out_and_listed(folder: Path) -> None:
    """A truncated file costs only itself, and digest and row keys follow what is left."""
    broken = folder / "05.png"
    broken.write_bytes(broken.read_bytes()[:40])
    pool = ImagePool.from_folder(folder)
    assert len(pool.row_keys(SPEC)) == len(pool.pixels(SPEC)) == len(pool) == 11
    assert "05.png" in pool.unreadable[0]


def test_many_broken_pictures_are_refused(folder: Path) -> None:
    """A pool that is mostly unreadable is an error, not a small pool."""
    for path in list(folder.iterdir())[:6]:
        path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match="6 of 12"):
        ImagePool.from_folder(folder).pixels(SPEC)


def test_decompression_bomb_is_unreadable(tmp_path: Path) -> None:
    """A tiny file that decodes to a huge picture is refused before decoding."""
    Image.new("L", (12000, 12000)).save(tmp_path / "bomb.png", optimize=True)
    with pytest.raises(EmptyPoolError, match="can be decoded"):
        ImagePool.from_folder(tmp_path).pixels(SPEC)


def test_transform_matches_open_clip(folder: Path) -> None:
    """The evaluation transform is open_clip's own, bit for bit, up to normalisation."""
    from open_clip.transform import image_transform

    theirs = image_transform(16, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    pool = ImagePool.from_folder(folder)
    expected = torch.stack([theirs(Image.open(path)) for path in pool.paths])
    assert torch.equal(pool.pixels(SPEC).float() / 255, expected)


def test_labelled_set_reads_folders_and_names(tmp_path: Path) -> None:
    """Classes are sorted folder names, put into words by classnames.json."""
    for name in ("b_dog", "a_cat"):
        for i in range(3):
            write_picture(tmp_path / "train" / name / f"{i}.jpg", i)
    (tmp_path / "classnames.json").write_text('{"a_cat": "tabby cat"}')
    labelled = LabelledSet.from_folder(tmp_path / "train")
    assert labelled.class_names == ("tabby cat", "b dog")
    assert labelled.labels == (0, 0, 0, 1, 1, 1)
    assert labelled.choose([1]).class_names == ("b dog",)
    shots = labelled.shots(2, generator=torch.Generator().manual_seed(0))
    assert shots.labels == (0, 0, 1, 1)


def test_labelled_digest_sees_labels(tmp_path: Path) -> None:
    """The same pictures under other labels are another set."""
    for name in ("a", "b"):
        write_picture(tmp_path / name / "0.png", ord(name))
    labelled = LabelledSet.from_folder(tmp_path)
    assert labelled.digest != labelled.choose([1, 0]).digest


def test_flat_folder_is_not_a_labelled_set(folder: Path) -> None:
    """Pictures without class folders are refused with the expected arrangement."""
    with pytest.raises(DataError) as caught:
        LabelledSet.from_folder(folder)
    assert "CLASS" in caught.value.remedy


def test_text_pool_skips_comments(tmp_path: Path) -> None:
    """Comment lines and blanks are no captions; a file of nothing else is an error."""
    file = tmp_path / "captions.txt"
    file.write_text("# licence\na cat\n\n a dog \n")
    assert TextPool.from_file(file).texts == ("a cat", "a dog")
    file.write_text("# nothing\n")
    with pytest.raises(EmptyPoolError):
        TextPool.from_file(file)


def test_binary_text_file_is_a_data_error(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are refused by name."""
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.txt"):
        read_lines(tmp_path / "x.txt")
