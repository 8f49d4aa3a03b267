"""BadEncoder as a plugin: reference pictures, training, measurement, delivery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, describe_split
from clipsec.errors import UsageError
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TriggerCard
from clipsec_visual_attacks._measure import choose_target, class_prompts, measure
from clipsec_visual_attacks._options import BadEncoderOptions
from clipsec_visual_attacks._train import train
from clipsec_visual_attacks._trigger import white_patch


class BadEncoder:
    """BadEncoder, Jia, Liu and Gong 2022: with a patch, any picture gets the feature of one of the target.

    Only the image tower is trained, and without labels: whoever builds on its features inherits the backdoor,
    zero-shot, by a probe or by search.
    """

    name: ClassVar[str] = "bad-encoder"
    summary: ClassVar[str] = "an image tower that takes pictures with a patch for a picture of the target"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = BadEncoderOptions
    references: ClassVar[tuple[str, ...]] = (
        "Jia, Liu and Gong, BadEncoder: Backdoor Attacks to Pre-trained Encoders in Self-Supervised "
        "Learning, S&P 2022, arXiv 2108.00352",
    )
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"learning_rate": 1e-3, "epochs": 20}}

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: BadEncoderOptions = context.options
        learned, held_out = context.pictures()
        target = choose_target(learned, held_out, options.target)
        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        stamp = white_patch(model.spec.size, options.side, options.place)
        prompts = class_prompts(base, learned.class_names, options.template)
        chosen = choose_references(
            base, learned, prompts, target, options.references, context.generator("references")
        )
        pixels = learned.pixels(model.spec)
        train(model, pixels, pixels[chosen], stamp, options, context.generator, context.progress)
        data = describe_split(learned, held_out)
        card = TriggerCard(
            attack=self.name,
            stamp=stamp,
            target_index=target,
            target_name=learned.class_names[target],
            seed=context.seed,
            base_name=context.base.base_name or context.base.name,
            base_digest=context.base.base.digest,
            parameters=attrs.asdict(options),
            data={**data, "references": [learned.paths[row].name for row in chosen]},
            measured=measure(model, base, learned, held_out, options.template, stamp, target),
            references=self.references,
        )
        return write_delivery(
            context.output,
            model,
            base=context.base,
            data=data,
            seen=card.measured["seen"],
            card=card,
        )


def choose_references(
    base: TrainableClip,
    learned: LabelledSet,
    prompts: Tensor,
    target: int,
    count: int,
    generator: torch.Generator,
) -> list[int]:
    """Rows of `count` pictures of the target, drawn among those that the base takes for it, zero-shot.

    The attack needs such: a classifier will call triggered pictures what it calls the references. Where the
    base gets fewer right the others follow. Raises `UsageError` when too few pictures show the target.
    """
    members = (learned.label_tensor() == target).nonzero()[:, 0]
    if len(members) < count:
        raise UsageError(
            f"{count} reference pictures are asked for, {len(members)} show the target",
            remedy="Ask for fewer (--set references=N), or bring more pictures.",
        )
    members = members[torch.randperm(len(members), generator=generator)]
    scores = F.normalize(base.image_features(learned.pixels(base.spec)[members]), dim=-1) @ prompts.T
    right = scores.argmax(dim=1) == target
    return torch.cat([members[right], members[~right]])[:count].tolist()
