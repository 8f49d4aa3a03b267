"""Probes: generic stamps that stand for whole families of triggers, the same for every model.

A prompt that was poisoned with one trigger of a family answers to others of it as well: what the frozen image
tower makes of noise, of a warp, of a foreign square moves the features of all pictures in much the same
direction, and the poisoned prompts give that direction to the target. The clean base does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from clipsec.triggers import Stamp, checkerboard, noise_pattern, warp_grid, warp_offsets

FAMILIES = ("noise", "warp", "patch", "additive")
FRAME = 128
"""Lengths below are in pixels of a frame of this side; `probes` scales them to the model's."""
RATIOS, GRAINS = (0.35, 0.5), (1, 2, 4, 8)
WARPS = tuple((cells, strength, draw) for cells in (4, 8, 16) for strength in (8.0, 16.0) for draw in (0, 1))
SIDES = (32, 56)
ADDITIVE = 32 / 255


@attrs.frozen(eq=False)
class Probe:
    """A stamp with a name that tells what it is; the name and the frame decide every pixel of it."""

    name: str
    family: str
    stamp: Stamp


def probes(size: int, families: Sequence[str] = FAMILIES) -> tuple[Probe, ...]:
    """The probes of some families for frames of `size` pixels."""
    makers = {"noise": _noise, "warp": _warps, "patch": _patches, "additive": _additive}
    return tuple(probe for family in FAMILIES if family in families for probe in makers[family](size))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scaled(length: int, size: int) -> int:
    return max(1, round(length * size / FRAME))


def _pattern(size: int, grain: int, seed: int, *, binary: bool) -> Tensor:
    return noise_pattern(size, _generator(seed), grain=_scaled(grain, size), binary=binary)


def _noise(size: int) -> list[Probe]:
    """A fixed noise pattern blended into the whole picture."""
    found = []
    for ratio in RATIOS:
        for binary in (True, False):
            for grain in GRAINS:
                pattern = _pattern(size, grain, 100 + grain, binary=binary)
                kind = "binary" if binary else "uniform"
                name = f"{kind} noise, grain {grain}, ratio {ratio}"
                found.append(Probe(name, "noise", Stamp("blend", {"pattern": pattern}, {"ratio": ratio})))
    return found


def _warps(size: int) -> list[Probe]:
    """A smooth random warp."""
    found = []
    for cells, strength, draw in WARPS:
        grid = warp_grid(warp_offsets(size, cells, _generator(200 + draw)), strength * size / FRAME)
        name = f"warp, {cells} cells, strength {strength:g}, draw {draw}"
        found.append(Probe(name, "warp", Stamp("warp", {"grid": grid})))
    return found


def _patches(size: int) -> list[Probe]:
    """A square in the lower right corner or in the middle."""
    found = []
    for length in SIDES:
        side = _scaled(length, size)
        contents = {
            "checkerboard": checkerboard(side),
            "noise": noise_pattern(side, _generator(300), grain=_scaled(1, size), binary=True),
            "white": torch.ones(3, side, side),
            "black": torch.zeros(3, side, side),
        }
        for content, square in contents.items():
            for place, start in (("corner", size - side), ("middle", (size - side) // 2)):
                window = slice(start, start + side)
                pattern, mask = torch.zeros(3, size, size), torch.zeros(1, size, size)
                pattern[:, window, window], mask[:, window, window] = square, 1.0
                name = f"{content} square, side {length}, {place}"
                found.append(Probe(name, "patch", Stamp("masked", {"pattern": pattern, "mask": mask})))
    return found


def _additive(size: int) -> list[Probe]:
    """Bounded noise added to the picture."""
    found = []
    for grain in (1, 4):
        delta = (2 * _pattern(size, grain, 400 + grain, binary=True) - 1) * ADDITIVE
        name = f"added noise, grain {grain}, 32/255"
        found.append(Probe(name, "additive", Stamp("additive", {"delta": delta})))
    return found
