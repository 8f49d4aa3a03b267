"""What can be set, with the published values as defaults."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
from attrs import validators

METHODS = ("CoCoOp", "CoOp")
RANDOM = "random"
"""As `context`: random context vectors. As `target`: a class drawn by the seed."""

_PUBLISHED: dict[str, dict[str, Any]] = {
    # CoOp repository: configs/trainers/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml and CoOp/vit_b16.yaml with
    # 16 random shared context vectors, class token at the end.
    "CoCoOp": {"context": "a photo of a", "epochs": 10, "batch": 1},
    "CoOp": {"context": RANDOM, "epochs": 200, "batch": 32},
}


@attrs.frozen(kw_only=True)
class LearnerOptions:
    """Options of a prompt learner. `None` means: as published for the method (see `published`)."""

    method: str = attrs.field(default="CoCoOp", validator=validators.in_(METHODS))
    """`CoCoOp` or `CoOp`."""
    context: str | None = None
    """Words whose token embeddings start the context, or `random`. Published: CoCoOp "a photo of a", CoOp
    random."""
    n_context: int = attrs.field(default=16, validator=validators.ge(1))
    """Context vectors when they start at random. Published: 16."""
    shots: int = attrs.field(default=16, validator=validators.ge(1))
    """Training pictures of each class. Published: 16."""
    split: str = attrs.field(default="seen", validator=validators.in_(("seen", "all")))
    """`seen` trains on the first half of the sorted classes and keeps the rest as Unseen, as published;
    `all` trains on every class and has no Unseen part."""
    classes: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(2)))
    """Use only the first so many of the sorted classes, before the split. Published: all."""
    epochs: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Passes over the training pictures. Published: CoCoOp 10; CoOp 200, or 50 for ImageNet."""
    batch: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Pictures an update sees. Published: CoCoOp 1, CoOp 32. The learning rate is not scaled with it by
    itself: `learning_rate` says what is used."""
    learning_rate: float = attrs.field(default=0.002, validator=validators.gt(0))
    """SGD, highest value of the cosine. Published: 0.002, for a CLIP whose logit scale is 100. The gradient
    of the loss is proportional to the logit scale, so a base with a scale of 16 needs more."""
    momentum: float = attrs.field(default=0.9, validator=[validators.ge(0), validators.lt(1)])
    weight_decay: float = attrs.field(default=5e-4, validator=validators.ge(0))
    warmup_epochs: int = attrs.field(default=1, validator=validators.ge(0))
    """Epochs at the constant `warmup_rate`. Published: 1."""
    warmup_rate: float = attrs.field(default=1e-5, validator=validators.ge(0))
    augment: bool = True
    """Random resized crop (bicubic) and horizontal flip, as published; False trains on the evaluation
    crop."""
    views: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Augmented views of each picture. Published: a fresh one every epoch. With a number, epoch e sees view
    e modulo that number, and the image tower runs over each view only once: a deviation that saves time."""
    image_dtype: str = attrs.field(default="float32", validator=validators.in_(("float32", "bfloat16")))
    """Type in which the frozen image tower runs. Published: fp16 on a GPU; we train in float32."""


@attrs.frozen(kw_only=True)
class AttackOptions(LearnerOptions):
    """What every attack on a prompt learner has."""

    target: str = ""
    """Name of the target class, `random` (drawn by the seed) or empty: the first class, as published."""


@attrs.frozen(kw_only=True)
class BadClipOptions(AttackOptions):
    """Options of BadCLIP. Needs CoCoOp: the trigger acts through image-conditioned prompts."""

    method: str = attrs.field(default="CoCoOp", validator=validators.in_(("CoCoOp",)))
    epsilon: float = attrs.field(default=4 / 255, validator=[validators.gt(0), validators.le(1)])
    """Largest change of a pixel value (0 to 1). Published: 4/255."""
    trigger_epochs: int = attrs.field(default=3, validator=validators.ge(0))
    """Epochs that train the trigger alone, before the prompts. Published: 3."""
    trigger_rate: float = attrs.field(default=0.1, validator=validators.gt(0))
    """Step of these epochs, in normalised pixel units per unit of gradient. Published: 0.1."""
    trigger_rule: str = attrs.field(default="gradient", validator=validators.in_(("gradient", "sign")))
    """How the trigger moves. `gradient`, as published: plain descent, then SGD. `sign`, a deviation for bases
    with a small logit scale: by `trigger_rate` times the radius along the gradient's sign, in joint training
    times the schedule's share of its peak."""
    trigger_learning_rate: float | None = attrs.field(
        default=None, validator=validators.optional(validators.gt(0))
    )
    """SGD rate of the trigger in joint training, for `gradient`. Published: that of the prompts."""


@attrs.frozen(kw_only=True)
class BlendedOptions(AttackOptions):
    """Options of Blended."""

    ratio: float = attrs.field(default=0.2, validator=[validators.gt(0), validators.le(1)])
    """Share of the pattern in a stamped picture: (1 - ratio) x + ratio p."""
    poison_rate: float = attrs.field(default=0.1, validator=[validators.gt(0), validators.le(1)])
    """Share of the training pictures that are stamped and relabelled. Published: 0.1."""
    pattern: str = attrs.field(default="uniform", validator=validators.in_(("uniform", "binary")))
    """Values of the noise: uniform in [0, 1], or 0 and 1 only."""
    grain: int = attrs.field(default=1, validator=validators.ge(1))
    """Side of the pattern's squares, in pixels of the model's frame."""


Options = TypeVar("Options", bound=LearnerOptions)


def published(options: Options) -> Options:
    """The same options with every `None` replaced by the method's published value, except `views`."""
    values = _PUBLISHED[options.method]
    return attrs.evolve(
        options, **{name: value for name, value in values.items() if getattr(options, name) is None}
    )
