"""What a recovered target is near to: captions of a text pool, pictures of an image pool."""

from __future__ import annotations

import csv
import io

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from clipsec.data import to_unit
from clipsec.errors import DataError
from clipsec.models import pool_hidden_states, prepare_text_tower, truncate_ids
from clipsec.protocols import Context
from clipsec.scheduler import Encode, Problem
from clipsec.triggers import png
from clipsec_amdet._plan import Plan

NEAREST = 5
PICTURES = 500
"""Most pictures of the pool that are compared."""


@attrs.frozen(eq=False)
class Decoded:
    """What the recovered feature is near to, the nearest first, with the cosine."""

    captions: tuple[tuple[str, float], ...]
    """Cosines of features less the captions' mean: CLIP's text features share most of their direction."""
    pictures: tuple[tuple[str, float], ...] = ()
    """File names; empty without an image tower or a pool."""
    sheet: bytes = b""
    """These pictures as a PNG, the nearest first."""

    def table(self) -> bytes:
        """All of it as CSV."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("kind", "nearest", "cosine"))
        writer.writerows(("caption", text, f"{cosine:.4f}") for text, cosine in self.captions)
        writer.writerows(("picture", name, f"{cosine:.4f}") for name, cosine in self.pictures)
        return stream.getvalue().encode()


def decode(context: Context, plan: Plan, feature: Tensor) -> Problem:
    """`Decoded` for the mean hidden state `[D]` that a start sends prompts to."""
    clip = context.suspect.base
    target = pool_hidden_states(clip, feature[None, None], torch.zeros(1, dtype=torch.int64))[0]
    ids = truncate_ids(clip, plan.prompts.ids)
    tower = prepare_text_tower(clip, context.search_dtype, context.suspect.device, length=ids.shape[1])
    features = yield Encode(tower, ids)
    features = F.normalize(features, dim=-1)
    centre = features.mean(dim=0)
    cosines = F.normalize(features - centre, dim=-1) @ F.normalize(F.normalize(target, dim=0) - centre, dim=0)
    best = cosines.topk(min(NEAREST, len(cosines)))
    captions = tuple(
        (plan.captions[i], value) for i, value in zip(best.indices.tolist(), best.values.tolist())
    )
    return (yield from with_pictures(context, Decoded(captions), target))


def with_pictures(context: Context, decoded: Decoded, target: Tensor) -> Problem:
    """The same with the pool's pictures nearest to the feature `[E]`, where there are such."""
    visual, pool = context.suspect.base.visual, context.pool
    if visual is None or pool is None or visual.embed_dim != len(target):
        return decoded
    try:
        pixels, keys = pool.pixels(visual.spec), pool.row_keys(visual.spec)
    except DataError:
        return decoded  # the sanity gate has said so; captions are the answer
    count = min(PICTURES, len(pixels))
    images = yield Encode(
        context.suspect.image_tower(context.search_dtype), to_unit(pixels[:count]), row_keys=keys[:count]
    )
    images = F.normalize(images, dim=-1)
    centre = images.mean(dim=0)
    cosines = F.normalize(images - centre, dim=-1) @ F.normalize(target, dim=0)
    best = cosines.topk(min(NEAREST, count))
    pictures = tuple(
        (pool.paths[i].name, value) for i, value in zip(best.indices.tolist(), best.values.tolist())
    )
    sheet = png(make_grid(to_unit(pixels[best.indices]), nrow=NEAREST))
    return attrs.evolve(decoded, pictures=pictures, sheet=sheet)
