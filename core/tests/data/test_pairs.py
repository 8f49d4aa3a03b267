"""Pairs of pictures and captions from a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.data import read_pairs
from clipsec.errors import DataError


def test_captions_of_one_picture_belong_together(tmp_path: Path) -> None:
    """In the order of the file; pictures lie beside it, or in `images/`."""
    file = tmp_path / "pairs.csv"
    file.write_text('image,caption\na.jpg,one\nb.jpg,two\na.jpg,"three, four"\n')
    assert read_pairs(file) == ([tmp_path / "a.jpg", tmp_path / "b.jpg"], (("one", "three, four"), ("two",)))
    (tmp_path / "images").mkdir()
    assert read_pairs(file)[0][0] == tmp_path / "images" / "a.jpg"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,caption\na.jpg,one\n", "has no column 'image'"),
        ("image\na.jpg\n", "has no column 'caption'"),
        ("", "has no column 'image'"),
        ("image,caption\na.jpg,one\n", "names fewer than two pictures"),
        ("image,caption\na.jpg,one\nb.jpg\n", "without a picture or a caption"),
        ("image,caption\na.jpg,one\nb.jpg,  \n", "without a picture or a caption"),
    ],
)
def test_a_table_that_is_no_pairs_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    """Wrong columns, a single picture, rows that are not complete."""
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_pairs(tmp_path / "pairs.csv")
