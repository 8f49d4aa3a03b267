"""Memory: recognising that there is too little, and a first guess of how much fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import psutil
import torch

_PROCESS = psutil.Process()

# What torch says when memory is short and the error is a plain RuntimeError: CPU allocators on Linux, macOS
# and Windows, cuBLAS and cuDNN workspaces, MPS and ROCm.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "defaultcpuallocator",
    "not enough memory",
    "status_alloc_failed",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the host has too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(phrase in text for phrase in _OUT_OF_MEMORY)


def release_memory(device: torch.device) -> None:
    """Give back what is garbage. Call it outside of an except block: a traceback pins tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_in_use(device: torch.device) -> int:
    """Bytes for `Counts.peak_memory_bytes`: the peak allocated on a CUDA device, else resident bytes now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(_PROCESS.memory_info().rss)


class MemoryMeter(Protocol):
    """How much memory a device has, and what a call took of it."""

    def free(self) -> int:
        """Bytes that could be allocated now."""
        ...

    def peak(self, call: Callable[[], object]) -> int:
        """Bytes that `call` needed at its peak, on top of what was allocated before."""
        ...


class CudaMeter:
    """The memory of one CUDA device, through torch's caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def peak(self, call: Callable[[], object]) -> int:
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device)) - before


def cuda_meter(device: torch.device) -> MemoryMeter | None:
    """A meter for CUDA devices; None for others, whose allocators keep no books."""
    return CudaMeter(device) if device.type == "cuda" else None


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Least squares `y = a x + b`; with a single distinct x, `a = mean y / mean x` and `b = 0`."""
    n = len(xs)
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    if spread == 0:
        return (mean_y / mean_x if mean_x else 0.0), 0.0
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / spread
    return slope, mean_y - slope * mean_x


def probe_micro_batch(
    run: Callable[[int], object],
    meter: MemoryMeter,
    *,
    batches_open: int = 1,
    share: float = 0.8,
    largest: int = 256,
) -> int:
    """The largest power of two whose calls fit into `share` of the free memory; at least 1.

    `run(n)` makes the call with n rows, gradient included. Its peak is measured at n = 2 and 4 after one
    call to warm up (lazy library workspaces are not the rows' doing), and a line `bytes = a n + b` is drawn
    through them. `batches_open` calls are assumed to hold their memory at once.
    """
    run(1)
    sizes, peaks = (2, 4), []
    for n in sizes:
        try:
            peaks.append(meter.peak(partial(run, n)))
        except Exception as error:
            if is_out_of_memory(error):
                return n // 2
            raise
    slope, offset = fit_line(sizes, peaks)
    room = meter.free() * share / batches_open - max(0.0, offset)
    fitting = largest if slope <= 0 else int(min(largest, room // slope))
    return 1 << (max(1, fitting).bit_length() - 1)
