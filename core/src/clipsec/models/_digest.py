"""Digests of weights: equal whatever the file format, the order of names or the precision of storage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

_FACTS = ("num_heads", "eps", "stride", "padding", "dilation", "groups", "approximate", "pool_type")
"""Attributes of torch's own layers that change what a tower computes and show in no weight."""


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """sha256 of each tensor's dtype, shape and bytes. 1.4 GB/s a core; hashlib lets other threads run
    meanwhile."""
    if sum(tensor.numel() for tensor in tensors.values()) < 1_000_000:
        return {name: _tensor_digest(tensor) for name, tensor in tensors.items()}
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(tensors, pool.map(_tensor_digest, tensors.values())))


def _tensor_digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)} ".encode())
    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def combine_digests(digests: Mapping[str, str], **facts: Any) -> str:
    """One sha256 over names and digests in the order of the names, and over facts that no weight shows."""
    entries = [[name, digests[name]] for name in sorted(digests)]
    text = json.dumps({"tensors": entries, "facts": facts}, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def state_digest(tensors: Mapping[str, Tensor], **facts: Any) -> str:
    """The canonical digest of a state dict: names in order, dtypes, shapes and bytes, and `facts`."""
    return combine_digests(tensor_digests(tensors), **facts)


def layer_facts(module: nn.Module) -> dict[str, Any]:
    """What a module computes beyond its weights: heads, epsilons, strides and the kinds of its
    activations."""
    facts: dict[str, Any] = {}
    for path, layer in module.named_modules():
        for name in _FACTS:
            value = layer.__dict__.get(name)
            if isinstance(value, int | float | str | tuple) and not isinstance(value, bool):
                facts[f"{path}.{name}"] = value
    return facts
