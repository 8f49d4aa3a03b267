"""The shipped labelled pictures: everyday things that any CLIP of natural pictures knows.

The sanity gate of `clipsec run` takes them as its zero-shot floor. They come from the test split of Caltech
101, which neither mini nor b16 was trained on.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from clipsec.errors import DataError, MalformedModelError

from ._cache import write_json
from ._compact import REINSTALL
from ._expanded import package_data
from ._pool import attributed, encode_again, write_provenance

__all__ = ["EVERYDAY", "build_everyday", "labelled_pictures_folder"]

EVERYDAY = {
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "butterfly": "butterfly",
    "camera": "camera",
    "car_side": "car",
    "cellphone": "mobile phone",
    "chair": "chair",
    "cup": "cup",
    "dalmatian": "dalmatian",
    "elephant": "elephant",
    "laptop": "laptop",
    "pizza": "pizza",
    "scissors": "pair of scissors",
    "stop_sign": "stop sign",
    "sunflower": "sunflower",
    "umbrella": "umbrella",
}
"""Folder of Caltech 101 to words for a prompt. Chosen before any model was measured on them."""
PER_CLASS = 3
_SET = "caltech101"


def labelled_pictures_folder() -> Path:
    """The folder `CLASS/picture` of the shipped labelled pictures; `classnames.json` lies beside it.

    Raises MalformedModelError when files of the package are missing.
    """
    folder = package_data() / "everyday"
    if not (folder / "classnames.json").is_file():
        raise MalformedModelError(
            f"the shipped labelled pictures are missing from {folder}", remedy=REINSTALL
        )
    return folder / "pictures"


def build_everyday(data: Path, output: Path, say: Callable[[str], None] = print) -> Path:
    """Re-encode the first three test pictures of each class into `output`, each with its attribution.

    Raises DataError when pictures are missing.
    """
    source = data / _SET
    try:
        with (source / "provenance.csv").open(newline="", encoding="utf-8") as file:
            told = {row["file"]: row for row in csv.DictReader(file)}
    except OSError as error:
        raise DataError(
            f"{data} has no {_SET}/provenance.csv", remedy="Give --data the data folder."
        ) from error
    rows = []
    for folder in EVERYDAY:
        files = sorted(name for name in told if name.startswith(f"test/{folder}/"))[:PER_CLASS]
        if len(files) < PER_CLASS:
            raise DataError(f"{source}/test/{folder} has too few pictures", remedy="Get the data set anew.")
        for name in files:
            row = attributed(told[name]) | {"file": name.removeprefix("test/")}
            encode_again(source / name, output / "pictures" / row["file"])
            rows.append(row)
    write_provenance(output, rows)
    write_json(output / "classnames.json", EVERYDAY)
    say(f"{len(rows)} pictures in {output}")
    return output
