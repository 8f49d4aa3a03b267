"""The other starting point: a base whose image tower was fine-tuned on the task, with nothing planted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from attrs import validators

from clipsec.data import describe_split
from clipsec.models import TrainableClip, check_template, with_gradients, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import measured_rate
from clipsec_bad_text_tower._train import unit_features


@attrs.frozen(kw_only=True)
class ImageFinetuneOptions:
    """Options of the fine-tune. Published: FusionBench's recipe for ViT-B/32, whose CIFAR-10 model is at
    0.976."""

    template: str = attrs.field(default="a photo of a {}.", validator=check_template)
    """Prompt of a class."""
    steps: int = attrs.field(default=4000, validator=validators.ge(1))
    """Updates. Published: 4,000."""
    batch: int = attrs.field(default=32, validator=validators.ge(1))
    """Pictures of an update. Published: 32."""
    learning_rate: float = attrs.field(default=1e-5, validator=validators.gt(0))
    """Of Adam. Published: 1e-5."""


class ImageFinetune:
    """No attack: the image tower fine-tuned on labelled pictures against its own frozen class prompts.

    Clean accuracy near 0.98, as the paper of BadTextTower reports it, needs such a base; and it is a hard
    negative for detectors on image towers.
    """

    name: ClassVar[str] = "image-finetune"
    summary: ClassVar[str] = "no attack: the image tower fine-tuned on labelled pictures"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = ImageFinetuneOptions
    references: ClassVar[tuple[str, ...]] = (
        "tanganke/clip-vit-base-patch32_cifar10 (FusionBench), model card",
    )
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"steps": 10}}
    clean: ClassVar[bool] = True

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: ImageFinetuneOptions = context.options
        learned, held_out = context.pictures()
        model = TrainableClip.copy_of(context.base.base)
        names = [name.replace("_", " ") for name in learned.class_names]
        with torch.no_grad():
            texts = [options.template.format(name) for name in names]
            prompts = F.normalize(model.encode_texts(texts), dim=-1)

        def accuracy() -> dict[str, Any]:
            images = unit_features(model, held_out.pixels(model.spec))
            return measured_rate((images @ prompts.T).argmax(dim=1) == held_out.label_tensor())

        seen = {"zero_shot_accuracy": accuracy()}
        pixels, labels = learned.pixels(model.spec), learned.label_tensor()
        generator = context.generator("order")
        size = min(options.batch, len(labels))
        order = torch.randperm(len(labels), generator=generator)
        with with_gradients(model.image_parameters().values()) as weights:
            optimiser = torch.optim.Adam(weights, lr=options.learning_rate)
            for step in range(options.steps):
                if len(order) < size:
                    order = torch.randperm(len(labels), generator=generator)
                rows, order = order[:size], order[size:]
                images = F.normalize(model.encode_images(pixels[rows].float() / 255), dim=-1)
                loss = F.cross_entropy(model.clip.logit_scale * images @ prompts.T, labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                context.progress((step + 1) / options.steps, "training")
        seen["accuracy"] = accuracy()
        return write_delivery(
            context.output,
            model,
            base=context.base,
            data=describe_split(learned, held_out),
            seen=seen,
        )
