"""Toy pictures: eight classes of coloured patterns, drawn by a seed, as files that any loader reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32
COLOURS = {"red": (215, 45, 45), "green": (45, 190, 70), "blue": (50, 70, 215), "yellow": (220, 205, 50)}
PATTERNS = ("stripes", "dots")
CLASS_NAMES = tuple(sorted(f"{colour} {pattern}" for colour in COLOURS for pattern in PATTERNS))
"""In the order in which a folder of them is read."""


def draw(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One picture of a class, uint8 `[SIZE, SIZE, 3]`: period, phase, contrast and noise are random."""
    colour, pattern = CLASS_NAMES[label].split()
    period, (across, down) = rng.integers(5, 9), rng.integers(0, 8, 2)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    mask = ((x + across) // (period // 2)) % 2 == 0
    if pattern == "dots":
        mask = ((x + across) % period < period // 2) & ((y + down) % period < period // 2)
    light = np.array(COLOURS[colour]) * rng.uniform(0.8, 1.1)
    dark = np.full(3, rng.uniform(10, 60))
    picture = np.where(mask[..., None], light, dark) + rng.normal(0, 6, (SIZE, SIZE, 3))
    return picture.clip(0, 255).astype(np.uint8)


def draw_classes(per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures `[n, SIZE, SIZE, 3]` and labels `[n]`, class by class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASS_NAMES)), per_class)
    return np.stack([draw(int(label), rng) for label in labels]), labels


def write_pictures(folder: Path, per_class: int, seed: int) -> Path:
    """Write `folder/CLASS/NUMBER.png`; returns the folder."""
    pictures, labels = draw_classes(per_class, seed)
    for number, (picture, label) in enumerate(zip(pictures, labels)):
        place = folder / CLASS_NAMES[label].replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:03d}.png")
    return folder
