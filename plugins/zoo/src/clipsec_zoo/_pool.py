"""The shipped image pool: a thousand natural pictures that may be redistributed, each with its
attribution."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from clipsec.errors import DataError, MalformedModelError

from ._cache import atomic_path, digest_file, write_json
from ._compact import REINSTALL
from ._expanded import package_data

__all__ = [
    "POOL_SET",
    "attributed",
    "build_pool",
    "encode_again",
    "image_pool_folder",
    "write_provenance",
]

POOL_SET = "ood_open"
_SHORT_SIDE = 144
_QUALITY = 80

# What each collection asks for; the tf_flowers photographers are named picture by picture in the source's own
# file.
_COLLECTIONS = {
    "caltech101": (
        "CC BY 4.0",
        "Caltech 101, Fei-Fei Li, Marco Andreeto, Marc'Aurelio Ranzato, Pietro Perona (CaltechDATA, 2022), "
        "https://doi.org/10.22002/D1.20086",
    ),
    "grocery": (
        "MIT",
        "Grocery Store Dataset, copyright (c) 2019 Marcus Klasson, "
        "github.com/marcusklasson/GroceryStoreDataset",
    ),
    "clothing_full": (
        "CC0 1.0",
        "Clothing dataset, Alexey Grigorev and contributors, github.com/alexeygrigorev/clothing-dataset",
    ),
    "tf_flowers": ("CC BY 2.0", ""),
}


def image_pool_folder() -> Path:
    """The folder of the shipped pool's pictures; `provenance.csv`, one line a picture, lies beside it.

    Raises MalformedModelError when files of the package are missing.
    """
    folder = package_data() / "image_pool"
    if not (folder / "provenance.csv").is_file():
        raise MalformedModelError(
            f"the shipped image pool is missing from {folder}",
            remedy=REINSTALL,
        )
    return folder / "pictures"


def build_pool(data: Path, output: Path, say: Callable[[str], None] = print) -> Path:
    """Re-encode the pictures of `ood_open` (short side 144, JPEG) into `output`, with one attribution line a
    picture.

    Raises DataError when a picture has no known licence or no attribution that its licence asks for.
    """
    source = data / POOL_SET
    if not (source / "provenance.csv").is_file():
        raise DataError(f"{data} has no {POOL_SET}/provenance.csv", remedy="Give --data the data folder.")
    rows = []
    with (source / "provenance.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.append(attributed(row))
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    for row in rows:
        encode_again(source / row["file"], output / "pictures" / row["file"])
    write_provenance(output, rows)
    say(f"{len(rows)} pictures in {output}")
    return output


def encode_again(source: Path, target: Path) -> None:
    """Write a picture in the size and quality in which pictures are shipped."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    scale = _SHORT_SIDE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        picture.resize(size, Image.Resampling.LANCZOS).save(
            temporary, format="JPEG", quality=_QUALITY, optimize=True
        )


def write_provenance(output: Path, rows: list[dict[str, str]]) -> None:
    """`provenance.csv` and `digests.json` of the shipped pictures `output/pictures/FILE`."""
    with (
        atomic_path(output / "provenance.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(
            file, fieldnames=["file", "source", "licence", "attribution", "change"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    digests = {row["file"]: digest_file(output / "pictures" / row["file"]) for row in rows}
    write_json(output / "digests.json", digests)


def attributed(row: dict[str, str]) -> dict[str, str]:
    """A line of a source's provenance table as it is shipped.

    Raises DataError when the licence is not known or what it asks for is missing.
    """
    collection = row["source"].split("/")[0]
    if collection not in _COLLECTIONS:
        raise DataError(
            f"{row['file']} comes from {collection}, whose licence is not known here", remedy="Leave it out."
        )
    licence, credit = _COLLECTIONS[collection]
    credit = row["attribution"] or credit
    if not credit:
        raise DataError(f"{row['file']} has no attribution", remedy="Leave it out: its licence asks for one.")
    return {
        "file": row["file"],
        "source": row["source"],
        "licence": licence,
        "attribution": credit,
        "change": f"scaled to a short side of {_SHORT_SIDE} pixels and compressed again",
    }
