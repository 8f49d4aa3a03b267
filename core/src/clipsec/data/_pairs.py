"""Pairs of pictures and captions: a CSV file beside the pictures."""

from __future__ import annotations

import csv
from pathlib import Path

from clipsec.errors import DataError


def read_pairs(file: Path | str) -> tuple[list[Path], tuple[tuple[str, ...], ...]]:
    """Pictures of a CSV file with the columns `image` and `caption`, and the captions of each.

    Pictures lie beside the file, or in `images/` beside it; one that has several captions has several rows.
    Raises `DataError` when it cannot be read, a row is not complete, or it names fewer than two pictures.
    """
    file = Path(file)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream)
            missing = [name for name in ("image", "caption") if name not in (table.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{file} has no column {missing[0]!r} in its first line",
                    remedy="Name a CSV file with the columns image and caption.",
                )
            rows = [(row["image"], row["caption"]) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read: {error}", remedy="Name a CSV file with the columns image and caption."
        ) from error
    captions: dict[str, list[str]] = {}
    for name, caption in rows:
        if name is None or not (caption or "").strip():
            raise DataError(
                f"{file} has a row without a picture or a caption", remedy="Complete or remove the row."
            )
        captions.setdefault(name, []).append(caption)
    folder = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    if len(captions) < 2:
        raise DataError(f"{file} names fewer than two pictures", remedy="Bring some hundred pairs.")
    return [folder / name for name in captions], tuple(tuple(texts) for texts in captions.values())
