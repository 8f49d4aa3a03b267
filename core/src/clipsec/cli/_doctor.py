"""`clipsec doctor`: what this installation can do."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch


@click.command("doctor", short_help="What is installed, devices, thread settings, safe micro-batches.")
def doctor_command() -> int:
    """Print versions, devices, the measured matmul rate of each dtype, and where things are cached."""
    import torch

    from clipsec.runner import available_cores, default_shared_folder, environment, use_all_cores
    from clipsec.scheduler import default_micro_batch

    use_all_cores()
    for name, value in environment().items():
        click.echo(f"{name:18} {value}")
    click.echo(f"{'cores available':18} {available_cores()}")
    click.echo(f"{'OMP_WAIT_POLICY':18} {os.environ.get('OMP_WAIT_POLICY', 'not set')}")
    click.echo(f"{'micro-batch, cpu':18} {default_micro_batch(torch.device('cpu'))}")
    for dtype in (torch.float32, torch.bfloat16):
        rate = matmul_rate(dtype)
        click.echo(f"{'matmul ' + str(dtype).removeprefix('torch.'):18} {rate / 1e9:.0f} GFLOP/s")
    click.echo(f"{'shared results':18} {default_shared_folder()}")
    return 0


def matmul_rate(dtype: torch.dtype, size: int = 1024, seconds: float = 0.5) -> float:
    """Best floating-point operations a second of a square matmul, over about `seconds`."""
    import torch

    left = torch.randn(size, size).to(dtype)
    right = torch.randn(size, size).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
