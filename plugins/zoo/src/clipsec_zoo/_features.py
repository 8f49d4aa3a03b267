"""Features of the frozen image towers, computed once, in shards that a killed build finds again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ._cache import digest_file, stage_key, stage_tensors
from ._pairs import Example
from ._views import centre_view, views_of

__all__ = ["evaluation_pixels", "training_features"]


def training_features(
    examples: Sequence[Example],
    tower: Callable[[Tensor], Tensor],
    folder: Path,
    *,
    views: int,
    size: int,
    identity: str,
    batch: int = 128,
    shard: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the features of every example's views, fp16 [n, views, width].

    `tower` maps pixels in [0, 1] ([b, 3, size, size], fp32) to features; `identity` names it and its weights
    in the shards' keys, together with the pictures' digests, so that nothing stale is ever read.
    A killed build loses at most one shard of `shard` pictures.
    """
    shards = []
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(examples), shard):
            part = examples[start : start + shard]
            digests = list(pool.map(lambda example: digest_file(example.path), part))
            key = stage_key(identity=identity, views=views, size=size, version=1, pictures=digests)

            def make(part: Sequence[Example] = part) -> dict[str, Tensor]:
                return {"features": _encode(part, tower, pool, views, size, batch)}

            path = folder / f"shard-{start // shard:03d}.safetensors"
            shards.append(stage_tensors(path, key, make)["features"])
            if progress is not None:
                progress(min(start + shard, len(examples)), len(examples))
    return torch.cat(shards)


def _encode(
    part: Sequence[Example],
    tower: Callable[[Tensor], Tensor],
    pool: ThreadPoolExecutor,
    views: int,
    size: int,
    batch: int,
) -> Tensor:
    step = max(1, batch // views)
    groups = [part[start : start + step] for start in range(0, len(part), step)]

    def read(group: Sequence[Example]) -> Tensor:
        seen = [views_of(example.path, views, size, mirror=example.mirror, seed=0) for example in group]
        return torch.cat(seen)

    done = []
    # One group is decoded ahead while the tower works; PIL releases the interpreter lock.
    ahead = [pool.submit(read, group) for group in groups[:4]]
    for index, group in enumerate(groups):
        pixels = ahead[index].result().float() / 255
        if index + 4 < len(groups):
            ahead.append(pool.submit(read, groups[index + 4]))
        ahead[index] = None  # type: ignore[call-overload]
        done.append(tower(pixels).float().view(len(group), views, -1).half())
    return torch.cat(done)


def evaluation_pixels(paths: Sequence[Path], size: int) -> Tensor:
    """Centre views in [0, 1], fp32 [n, 3, size, size]."""
    from PIL import Image

    def read(path: Path) -> Tensor:
        with Image.open(path) as file:
            view = centre_view(file.convert("RGB"), size)
        return (
            torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8)
            .view(size, size, 3)
            .permute(2, 0, 1)
        )

    return torch.stack([read(path) for path in paths]).float() / 255
