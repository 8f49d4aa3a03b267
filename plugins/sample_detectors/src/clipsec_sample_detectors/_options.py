"""What can be set, with the published values in the docstrings where there are such."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path

import attrs
from attrs import validators

from clipsec.data import ImagePool, read_pairs
from clipsec.errors import DataError
from clipsec_sample_detectors._density import STATISTICS

_share = [validators.gt(0), validators.lt(1)]


@attrs.frozen(kw_only=True)
class LocalDensityOptions:
    """Options of `local-density`."""

    pairs: str = ""
    """The training pairs: a CSV file with the columns `image` and `caption`; pictures lie beside it, or in
    `images/`. Without it the labelled pictures, with prompts of their classes as captions."""
    clean: str = ""
    """Pairs that are known to be clean, in the same layout: without them pairs are ranked, and nothing is a
    finding. They must be of the same kind as the others."""
    share: float = attrs.field(default=0.01, validator=_share)
    """Clean pictures that the threshold gives away; it takes 99 clean ones at least for 0.01. Ours."""
    statistic: str = attrs.field(default="dao", validator=validators.in_((*STATISTICS, "clipscore")))
    """What pairs are ranked by: `k-dist`, `slof`, `lid`, `dao`, `clipscore` (negated). The table has all."""
    pair_mode: bool = True
    """Whether captions are neighbours too. Published: yes."""
    k: int = attrs.field(default=16, validator=validators.ge(2))
    """Neighbours. Published: 16; more where over a tenth of the pairs may be poisoned."""
    lid_k: int = attrs.field(default=64, validator=validators.ge(2))
    """Neighbours of `lid`. Published: 64. `dao` takes `k` for its dimensions too."""
    batch: int = attrs.field(default=2048, validator=validators.ge(4))
    """Pairs of a random batch that neighbours are looked for in. Published: about 2,048."""
    shown: int = attrs.field(default=12, validator=[validators.ge(0), validators.le(48)])
    """Most suspicious pictures in the report."""
    digest: str = ""
    """Of the two files and their pictures: a stored verdict is about the same pairs, not the same paths.
    Computed; what is given must be equal."""

    def __attrs_post_init__(self) -> None:
        _set_digest(self, map(_pairs_facts, (self.pairs, self.clean)))


@attrs.frozen(kw_only=True)
class BDetClipOptions:
    """Options of `bdetclip`."""

    descriptions: str = ""
    """Benign texts: a CSV file with the columns `class` and `text`, about seven for each class. Published:
    seven, written by a language model. Without it those of CIFAR-10's classes that are shipped, written by
    hand, and for other classes seven templates around their names."""
    share: float = attrs.field(default=0.05, validator=_share)
    """Clean pictures that the threshold gives away; it takes 19 clean ones at least for 0.05. Published: none
    of the references is below it, with which a re-run by others found next to nothing."""
    templates: int = attrs.field(default=80, validator=[validators.ge(1), validators.le(80)])
    """Malignant texts of a class, each a template and a short sentence about something else.
    Published: 80."""
    words: int = attrs.field(default=8, validator=validators.ge(2))
    """Most words of such a sentence. Published: short."""
    shown: int = attrs.field(default=12, validator=[validators.ge(0), validators.le(48)])
    """Most suspicious pictures in the report."""
    digest: str = ""
    """Of the file with descriptions. Computed; what is given must be equal."""

    def __attrs_post_init__(self) -> None:
        described = [] if not self.descriptions else read_descriptions(self.descriptions)
        _set_digest(self, map(repr, described))


def read_descriptions(file: Path | str) -> list[tuple[str, str]]:
    """Class names and texts of a CSV file with the columns `class` and `text`. Raises `DataError`."""
    try:
        with Path(file).open(encoding="utf-8", newline="") as stream:
            rows = [(row["class"], row["text"]) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read: {error}", remedy="Name a CSV file with the columns class and text."
        ) from error
    if not rows or not all((name or "").strip() and (text or "").strip() for name, text in rows):
        raise DataError(
            f"{file} is empty or has a row without a class or a text", remedy="Complete or remove the row."
        )
    return rows


def _pairs_facts(file: str) -> str:
    if not file:
        return ""
    paths, captions = read_pairs(file)
    try:
        return repr((ImagePool(tuple(paths)).digest, captions))
    except OSError as error:
        raise DataError(
            f"a picture that {file} names cannot be read: {error}", remedy="Put it there, or remove its rows."
        ) from error


def _set_digest(options: LocalDensityOptions | BDetClipOptions, parts: Iterable[str]) -> None:
    found = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if options.digest not in ("", found):
        raise DataError(
            "the files are not those of the digest that was given", remedy="Leave the option digest out."
        )
    object.__setattr__(options, "digest", found)
