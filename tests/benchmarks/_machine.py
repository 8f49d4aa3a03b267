"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe(clock: str) -> str:
    """One line: processor, instruction set, threads, versions, clock."""
    extras = [
        name.strip("_").removeprefix("is_").removesuffix("_supported")
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        if getattr(torch.cpu, name, lambda: False)()
    ]
    instructions = ", ".join([torch.backends.cpu.get_cpu_capability(), *extras])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{_processor()} ({instructions}), {cores} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {clock} time, "
        f"load {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
