"""Ordinary captions that ship with clipsec, for detectors of text towers and for decoding what they find."""

from __future__ import annotations

from importlib.resources import as_file, files

import attrs

from clipsec.data._texts import TextPool


def coco_captions() -> TextPool:
    """4,000 captions of COCO 2017 (validation), about one a picture. CC BY 4.0; the file says whose they are.

    They come from the first 20,000 of the 25,014 captions; the others are left for training attacks and
    benign models that detectors are tested on.
    """
    with as_file(files("clipsec.data") / "captions" / "coco_val2017.txt") as path:
        return attrs.evolve(TextPool.from_file(path), name="COCO captions")
