"""Honest prompts: what the clean base answers under many prompts that nobody trained, as one head.

A clean prompt learner is one prompt among many. Noise or a warp sends pictures to whatever class lies
nearest, and which one that is depends on the wording; a class that some honest wording gives them to as well
was not planted. Templates are in the manner of Radford et al. 2021; random contexts are what CoOp (Zhou et
al. 2022) starts from, in its two lengths and one between, and wider.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.errors import UnsupportedModelError, UsageError
from clipsec.models import SharedPrefixText, Suspect, encode_texts
from clipsec.scheduler import Tower
from clipsec.store import content_key

TEMPLATES = (
    "{}.",
    "a bad photo of a {}.",
    "a close-up photo of the {}.",
    "a drawing of a {}.",
    "a blurry photo of a {}.",
    "a pixelated photo of a {}.",
    "art of the {}.",
    "a photo of many {}.",
    "a photo of the dirty {}.",
    "a black and white photo of the {}.",
    "a jpeg corrupted photo of a {}.",
    "a dark photo of the {}.",
    "a painting of a {}.",
    "the texture of a {}.",
    "a {} in the garden.",
    "satellite picture of {}.",
    "a bright photo of a {}.",
    "my {}.",
    "this is a {}, seen from above.",
)


CONTEXTS = tuple((4 * 2 ** (draw % 3), (0.02, 0.05, 0.1)[draw // 3 % 3], draw) for draw in range(30))
"""Vectors, their standard deviation (CoOp: 0.02) and the seed of each random context."""


def honest_texts(suspect: Suspect) -> Tensor:
    """Text features of every class under every honest prompt, fp32 `[prompts, classes, E]`, not normalised.

    Contexts for which the longest name leaves no room are left out.
    """
    names = [name.replace("_", " ") for name in suspect.class_names]
    found = [encode_texts(suspect.base, [form.format(name) for name in names]) for form in TEMPLATES]
    towers: dict[int, SharedPrefixText | None] = {}
    for length, deviation, seed in CONTEXTS:
        if length not in towers:
            towers[length] = _tower(suspect, names, length)
        tower = towers[length]
        if tower is not None:
            generator = torch.Generator().manual_seed(seed)
            context = deviation * torch.randn(length, tower.width, generator=generator)
            found.append(tower(context.to(suspect.device)))
    return torch.stack([text.float() for text in found])


def _tower(suspect: Suspect, names: list[str], length: int) -> SharedPrefixText | None:
    try:
        return SharedPrefixText(suspect.base, names, length, torch.float32, suspect.device)
    except (UsageError, UnsupportedModelError):
        return None


def honest_head(suspect: Suspect) -> Tower:
    """The base's answers under each prompt: raw image features fp32 `[n, E]` -> cosines `[n, prompts,
    classes]`. Constants but for one small product in fp32."""
    with torch.no_grad():
        text = honest_texts(suspect)
    prompts, classes, _ = text.shape
    weight = F.normalize(text, dim=-1).flatten(0, 1).to(suspect.device)

    def head(features: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(features.float(), dim=-1), weight)
        return cosines.view(len(features), prompts, classes)

    zero_shot = suspect.zero_shot_head(torch.float32)
    return Tower(
        key=content_key(templates=list(TEMPLATES), contexts=list(CONTEXTS), zero_shot=zero_shot.key),
        fn=head,
        label=f"head {prompts} honest prompts {classes} classes float32",
        device=torch.device(suspect.device),
    )
