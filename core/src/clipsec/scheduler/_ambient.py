"""What a plugin switches on for its thread must not outlast its yield: neighbours run in the same thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_surroundings() -> Iterator[None]:
    """Grad mode on and inference mode off, whatever the caller has; undone afterwards."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def autocast_state() -> tuple[bool, bool]:
    """Whether autocast is on for the CPU and for CUDA."""
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def leaked_mode(autocast_before: tuple[bool, bool]) -> str | None:
    """The name of a mode that is on because a plugin yielded inside it; None when all is well.

    The grad mode is not among them: it is kept for each problem, and restored when the problem goes on.
    """
    if torch.is_inference_mode_enabled():
        return "torch.inference_mode"
    if autocast_state() != autocast_before:
        return "torch.autocast"
    return None
