"""Honest prompts: what the clean base answers under many hand-written prompts, as one head.

A clean prompt learner is one prompt among many. Noise or a warp sends pictures to whatever class lies
nearest, and which one that is depends on the wording; a class that some honest wording gives them to as well
was not planted. Source: the templates are in the manner of Radford et al. 2021, appendix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import Suspect, encode_texts
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


def honest_head(suspect: Suspect, templates: tuple[str, ...] = TEMPLATES) -> Tower:
    """The base's answers under each template: raw image features fp32 `[n, E]` -> cosines `[n, templates,
    classes]`. Constants but for one small product in fp32."""
    names = [name.replace("_", " ") for name in suspect.class_names]
    with torch.no_grad():
        text = encode_texts(suspect.base, [form.format(name) for form in templates for name in names])
    weight = F.normalize(text.detach().float(), dim=-1).to(suspect.device)

    def head(features: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(features.float(), dim=-1), weight)
        return cosines.view(len(features), len(templates), len(names))

    zero_shot = suspect.zero_shot_head(torch.float32)
    return Tower(
        key=content_key(templates=list(templates), zero_shot=zero_shot.key),
        fn=head,
        label=f"head {len(templates)} honest prompts {len(names)} classes float32",
        device=torch.device(suspect.device),
    )
