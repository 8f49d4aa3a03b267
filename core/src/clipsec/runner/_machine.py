"""Settings of this process and pictures that installed plugins bring."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from clipsec_registry import Registry


def available_cores() -> int:
    """Cores this process may use, which in a container is less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """One thread for each core, unless OMP_NUM_THREADS says otherwise. Called by the command line only."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())


def shipped_pool(registry: Registry) -> tuple[str, Path] | None:
    """(distribution, folder) of the first image pool that an installed model plugin ships, or None.

    A plugin of kind `models` ships one by having a static method `image_pool_folder() -> Path`.
    """
    return _shipped(registry, "image_pool_folder")


def shipped_labelled(registry: Registry) -> tuple[str, Path] | None:
    """(distribution, folder) of the first labelled pictures that an installed model plugin ships, or None.

    A plugin of kind `models` ships them by having a static method `labelled_pictures_folder() -> Path`; the
    folder is laid out as `LabelledSet.from_folder` reads it.
    """
    return _shipped(registry, "labelled_pictures_folder")


def _shipped(registry: Registry, method: str) -> tuple[str, Path] | None:
    for record in registry.records("models"):
        folder = getattr(registry.load(record), method, None)
        if folder is not None:
            return record.distribution, Path(folder())
    return None
