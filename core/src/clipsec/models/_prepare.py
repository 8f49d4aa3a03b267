"""What every prepared tower shares: its key, its version, and the check against the stock module."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import Tensor

PREPARATION_VERSION = "1"
"""Part of every tower's key. Raise it whenever a prepared tower may compute different numbers."""

RELATIVE_TOLERANCE = 1e-4
"""How far a prepared tower may be from its stock module in fp32, relative to the largest feature."""


outside_inference = torch.inference_mode(False)
"""Decorates what makes a tower, since callers may be inside `no_grad` or `inference_mode`: the check needs
a gradient, and weights cast in inference mode could never take part in one."""


class PreparationWarning(UserWarning):
    """A fast tower disagrees with the module it was made from; the stock module is used, slower but right."""


def tower_key(kind: str, *parts: object, dtype: torch.dtype) -> str:
    """The content address of a tower: `kind`, its parts (digests, names), dtype and preparation version."""
    fields = [kind, *map(str, parts), str(dtype), PREPARATION_VERSION]
    # Length-prefixed, so that no two lists of parts run together into the same bytes.
    joined = b"".join(len(field.encode()).to_bytes(8, "big") + field.encode() for field in fields)
    return hashlib.sha256(joined).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of a tensor's dtype, shape and bytes."""
    flat = tensor.detach().cpu().contiguous()
    state = hashlib.sha256(f"{flat.dtype}{tuple(flat.shape)}".encode())
    state.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def agree(prepared: Tensor, stock: Tensor) -> bool:
    """Whether two fp32 feature batches `[n, E]` are equal to rounding."""
    if prepared.shape != stock.shape or not bool(torch.isfinite(prepared).all()):
        return False
    worst = (prepared.float() - stock.float()).abs().max()
    return bool(worst <= RELATIVE_TOLERANCE * stock.float().abs().max())


def warn_fallback(what: str, why: str) -> None:
    """Say that `what` runs on its stock module, and why."""
    warnings.warn(
        f"{what}: {why}; the stock module is used instead, in fp32 (slower, same numbers).",
        PreparationWarning,
        stacklevel=3,
    )


def library_output(output: object) -> Tensor:
    """The feature tensor in what a library's module returns: a tensor, a tuple or a transformers output."""
    if isinstance(output, Tensor):
        return output
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"no feature tensor in a {type(output).__name__}")


def freeze(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A detached, contiguous copy-or-view of a weight in `dtype` on `device`."""
    return tensor.detach().to(device=device, dtype=dtype).contiguous()
