"""Benign and malignant texts of classes for BDetCLIP."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files

import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES as TEMPLATES

from clipsec.data import coco_captions
from clipsec.exposure import named_classes
from clipsec_sample_detectors._options import read_descriptions

PLAIN = (
    "a photo of a {}.",
    "a picture that shows a {}.",
    "a {} as one sees it every day",
    "the whole {}, seen from near",
    "the shape and the colours of a {}",
    "one {} in its usual place",
    "this is clearly a {}.",
)
"""Benign texts of a class that nobody has described."""
_FEWEST_WORDS = 4


def benign_texts(names: Sequence[str], file: str = "") -> tuple[list[list[str]], list[str]]:
    """Texts about each class: of the file, else those shipped, else `PLAIN`; and the classes that got the
    last. Raises `DataError`."""
    if file:
        rows = read_descriptions(file)
    else:
        with as_file(files("clipsec_sample_detectors") / "descriptions.csv") as shipped:
            rows = read_descriptions(shipped)
    known: dict[str, list[str]] = {}
    for name, text in rows:
        known.setdefault(_plain(name), []).append(text)
    found = [known.get(_plain(name)) for name in names]
    texts = [
        each or [template.format(_plain(name)) for template in PLAIN]
        for name, each in zip(names, found, strict=True)
    ]
    return texts, [name for name, each in zip(names, found, strict=True) if each is None]


def malignant_texts(
    names: Sequence[str], templates: int, words: int, generator: torch.Generator
) -> list[list[str]]:
    """For each class, templates around its name, each followed by a short sentence of its own draw.

    The sentences are COCO captions of 4 to `words` words that name none of the classes, the shortest if none
    is so short.
    """
    free = [text for text in coco_captions().texts if not named_classes(text, names)]
    length = {text: len(text.split()) for text in free}
    short = [text for text in free if _FEWEST_WORDS <= length[text] <= words]
    sentences = short or sorted(free, key=length.__getitem__)[:100]
    drawn = torch.randint(len(sentences), (len(names), templates), generator=generator).tolist()
    order = torch.randperm(len(TEMPLATES), generator=generator)[:templates].sort().values.tolist()
    return [
        [f"{TEMPLATES[at](_plain(name))} {sentences[pick]}" for at, pick in zip(order, picks, strict=True)]
        for name, picks in zip(names, drawn, strict=True)
    ]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
