"""Trained weights, kept between programs: one test session starts several, which would all train the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clipsec.store import atomic_write

FOLDER = "CLIPSEC_TOYS"
"""The environment variable that names the folder; without it nothing is kept."""


def kept(name: str, train: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `train` returns, or what an earlier program with the same recipe wrote, to the last bit.

    A file that cannot be read is made again. Raises `StoreError` when the folder cannot be written to.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return train()
    path = Path(folder) / f"{name}-{_recipe()}.safetensors"
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = {key: tensor.detach().contiguous() for key, tensor in train().items()}
        atomic_write(path, safetensors.torch.save(tensors))
        return tensors


@cache
def _recipe() -> str:
    """A digest of what decides the bits: our code, the libraries, the processor's instructions."""
    digest = hashlib.sha256(torch.backends.cpu.get_cpu_capability().encode())
    for library in ("clipsec", "torch", "open_clip_torch", "numpy"):
        digest.update(f"{library} {version(library)}\n".encode())
    for module in ("_kept", "_pictures", "_toys", "_training"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    return digest.hexdigest()[:16]
