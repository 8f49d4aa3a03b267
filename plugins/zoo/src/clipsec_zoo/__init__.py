"""Two reference CLIP models, an image pool and demo deliveries for clipsec.

`mini` is shipped and unpacked on first use, `b16` is built once into the user's cache:

    python -m clipsec_zoo build mini --data DIR [--wheel FILE]
    python -m clipsec_zoo build b16 --data DIR [--wheel FILE]

Both are standard open_clip folders: `open_clip.create_model_and_transforms(f"local-dir:{mini_folder()}")`.
"""

from __future__ import annotations

from ._answers import Answer, answers
from ._b16 import b16_folder, build_b16
from ._everyday import build_everyday, labelled_pictures_folder
from ._expanded import mini_folder
from ._loader import ZooLoader, deliveries
from ._mini import build_mini
from ._pool import build_pool, image_pool_folder

__all__ = [
    "Answer",
    "ZooLoader",
    "answers",
    "b16_folder",
    "build_b16",
    "build_everyday",
    "build_mini",
    "build_pool",
    "deliveries",
    "image_pool_folder",
    "labelled_pictures_folder",
    "mini_folder",
]
