"""What a reference model is trained and measured on: pictures with words, read from the data folder."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import attrs

from clipsec.errors import DataError

__all__ = [
    "CAPTION_SETS",
    "LABELLED_SETS",
    "Captioned",
    "Example",
    "Labelled",
    "captioned_sets",
    "labelled_sets",
    "training_examples",
]

LABELLED_SETS = (
    "caltech101",
    "eurosat",
    "cifar10",
    "dtd10",
    "gtsrb",
    "flowers102_10class",
    "tf_flowers",
    "clothing10",
    "grocery81",
    "food101_3class",
    "stanfordcars40",
    "pets45",
    "intel_scenes",
    "scene15",
)
CAPTION_SETS = ("flickr8k_300", "coco_pairs")

# Pictures that mean something else in the mirror: traffic signs with arrows.
_NOT_MIRRORED = {"gtsrb"}
_PRETRAIN_CAPTIONS = {"flickr8k"}
_PRETRAIN_TITLES = {"fashion", "emoji"}


@attrs.frozen
class Example:
    """One training picture and what it may be called."""

    path: Path
    source: str
    """The set it comes from."""
    texts: tuple[str, ...]
    kind: str
    """`class`: words for a template; `title`: words that also stand alone; `caption`: a sentence."""
    mirror: bool


@attrs.frozen
class Labelled:
    """The test split of one labelled set."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]


@attrs.frozen
class Captioned:
    """Held-out pictures with their captions."""

    name: str
    paths: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]


def _require(folder: Path) -> None:
    if not (folder / "pretrain" / "pairs.csv").is_file():
        raise DataError(
            f"{folder} has no pretrain/pairs.csv",
            remedy="Give --data the folder that holds pretrain/ and the labelled sets (docs: the data page).",
        )


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _held_out(name: str) -> bool:
    """Half of the COCO pictures are for training, half are held out; the digest of the file name decides."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def training_examples(data: Path) -> list[Example]:
    """Every pair of `pretrain`, the train splits of the labelled sets, half of coco_pairs; never a test
    picture."""
    _require(data)
    examples = []
    with (data / "pretrain" / "pairs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            source = row["set"]
            kind = (
                "caption"
                if source in _PRETRAIN_CAPTIONS
                else "title"
                if source in _PRETRAIN_TITLES
                else "class"
            )
            texts = row["text"].split(" | ") if kind == "caption" else [row["text"]]
            path = data / "pretrain" / row["file"]
            kept = tuple(_words(text) for text in texts if text.strip())
            examples.append(Example(path, f"pretrain/{source}", kept, kind, source not in _NOT_MIRRORED))
    for name in LABELLED_SETS:
        words = json.loads((data / name / "classnames.json").read_text(encoding="utf-8"))
        for folder, word in sorted(words.items()):
            for path in sorted((data / name / "train" / folder).glob("*.jpg")):
                examples.append(
                    Example(path, f"{name}/train", (_words(word),), "class", name not in _NOT_MIRRORED)
                )
    for path, captions in _captions(data / "coco_pairs"):
        if not _held_out(path.name):
            examples.append(Example(path, "coco_pairs (half)", captions, "caption", True))
    return examples


def labelled_sets(data: Path) -> list[Labelled]:
    """The test splits, in the order of LABELLED_SETS."""
    _require(data)
    sets = []
    for name in LABELLED_SETS:
        words = json.loads((data / name / "classnames.json").read_text(encoding="utf-8"))
        paths: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(sorted(words)):
            found = sorted((data / name / "test" / folder).glob("*.jpg"))
            paths += found
            labels += [label] * len(found)
        names = tuple(_words(words[folder]) for folder in sorted(words))
        sets.append(Labelled(name, tuple(paths), tuple(labels), names))
    return sets


def captioned_sets(data: Path) -> list[Captioned]:
    """flickr8k_300 whole and the held-out half of coco_pairs."""
    sets = []
    for name in CAPTION_SETS:
        rows = [row for row in _captions(data / name) if name != "coco_pairs" or _held_out(row[0].name)]
        sets.append(Captioned(name, tuple(path for path, _ in rows), tuple(texts for _, texts in rows)))
    return sets


def _captions(folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    found: dict[str, list[str]] = {}
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["image"], []).append(_words(row["caption"]))
    return [(folder / "images" / name, tuple(texts)) for name, texts in sorted(found.items())]
