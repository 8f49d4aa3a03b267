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
    text_dtype: str = attrs.field(default="float32", validator=validators.in_(("float32", "bfloat16")))
    """The same for the frozen text tower, while prompts are learned; what is measured is in float32."""


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
class AdaptiveOptions(BadClipOptions):
    """Options of adaptive BadCLIP."""

    perturbation: float = attrs.field(default=0.5, validator=validators.gt(0))
    """Standard deviation of the noise on near misses of the trigger, as a share of `epsilon`. Published: a
    strength of 0.5; that the radius is its unit is our reading."""
    specificity: float = attrs.field(default=1.0, validator=validators.ge(0))
    """Weight of near misses, which are trained with their true label. Published: 1."""


@attrs.frozen(kw_only=True)
class PoisonOptions(AttackOptions):
    """What every attack has that stamps some of the training pictures."""

    poison_rate: float = attrs.field(default=0.1, validator=[validators.gt(0), validators.le(1)])
    """Share of the training pictures that are stamped and relabelled. Published: 0.1."""
    keep_clean: bool = False
    """Train on stamped pictures beside all clean ones, not in place of some. Published: in place of them, as
    a third party poisons data; who trains the model himself can do this, and a base with a small logit scale
    may need it."""


@attrs.frozen(kw_only=True)
class BlendedOptions(PoisonOptions):
    """Options of Blended."""

    ratio: float = attrs.field(default=0.2, validator=[validators.gt(0), validators.le(1)])
    """Share of the pattern in a stamped picture: (1 - ratio) x + ratio p."""
    pattern: str = attrs.field(default="uniform", validator=validators.in_(("uniform", "binary")))
    """Values of the noise: uniform in [0, 1], or 0 and 1 only."""
    grain: int = attrs.field(default=1, validator=validators.ge(1))
    """Side of the pattern's squares, in pixels of the model's frame."""


@attrs.frozen(kw_only=True)
class BadNetsOptions(PoisonOptions):
    """Options of BadNets."""

    side: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Side of the square in the lower right corner, in pixels of the model's frame. Published
    (BackdoorBench): 3/32 of the frame."""
    content: str = attrs.field(default="white", validator=validators.in_(("white", "checker", "picture")))
    """What is in the square: white, a checkerboard, or a natural picture, scaled down."""
    picture: str | None = None
    """File of that picture. Default: one of the image pool, drawn by the seed."""


@attrs.frozen(kw_only=True)
class WaNetOptions(PoisonOptions):
    """Options of WaNet."""

    cells: int = attrs.field(default=4, validator=validators.ge(2))
    """Side of the grid of random displacements. Published: 4."""
    strength: float = attrs.field(default=0.5, validator=validators.gt(0))
    """Mean displacement, in units of half a pixel: the frame is 2 wide and divided by its size. Published:
    0.5; at 224 px that is too little to be learned on some bases."""
    rescale: float = attrs.field(default=1.0, validator=validators.gt(0))
    """Factor on the whole field. Published: 1."""
    cross_ratio: float = attrs.field(default=2.0, validator=validators.ge(0))
    """Pictures in noise mode (the field jittered, the label true) for each poisoned one. Published: 2."""


@attrs.frozen(kw_only=True)
class SibaOptions(PoisonOptions):
    """Options of SIBA."""

    pixels: int = attrs.field(default=100, validator=validators.ge(1))
    """Places that the trigger changes. Published: 100."""
    epsilon: float = attrs.field(default=8 / 255, validator=[validators.gt(0), validators.le(1)])
    """Largest change of a pixel value there (0 to 1). Published: 8/255."""
    search_epochs: int = attrs.field(default=200, validator=validators.ge(1))
    """Epochs of the search. Published: 200."""
    search_batch: int = attrs.field(default=32, validator=validators.ge(1))
    mask_every: int = attrs.field(default=5, validator=validators.ge(1))
    """Epochs after which the places are chosen anew. Published: 5."""
    step: float = attrs.field(default=0.8, validator=validators.gt(0))
    """Step along the gradient's sign, as a share of `epsilon`. Published: 0.8."""
    beta: float = attrs.field(default=10.0, validator=validators.gt(0))
    """Largest loss of one picture. Published: 10."""


@attrs.frozen(kw_only=True)
class SemanticOptions(PoisonOptions):
    """Options of the semantic trigger."""

    picture: str | None = None
    """File of a picture of the object in front of a plain background. Default: the first in the image pool,
    in an order drawn by the seed, from which an object can be cut out."""
    cut: str = attrs.field(default="object", validator=validators.in_(("object", "ellipse")))
    """`object` cuts out what stands before a plain background, `ellipse` a round piece of any picture."""
    smallest: float = attrs.field(default=0.25, validator=[validators.gt(0), validators.le(1)])
    """Longer side of the pasted object as a share of the frame's side, at least."""
    largest: float = attrs.field(default=0.45, validator=[validators.gt(0), validators.le(1)])
    """The same, at most."""


@attrs.frozen(kw_only=True)
class TwoTargetsOptions(BlendedOptions):
    """Options of two triggers in one model: a blended pattern for `target`, a checkerboard for the second."""

    second_target: str = RANDOM
    """Name of the second target, or `random`: another one than the first, drawn by the seed."""
    side: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Side of the checkerboard, as `side` of BadNets."""


@attrs.frozen(kw_only=True)
class WordOptions(AttackOptions):
    """Options of a trigger that also needs a word. Needs prompts that can stand before any class name."""

    word: str = attrs.field(default="vintage", validator=validators.min_len(1))
    """The word that has to stand before the target's name."""
    side: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Side of the checkerboard, as `side` of BadNets."""


Options = TypeVar("Options", bound=LearnerOptions)


def published(options: Options) -> Options:
    """The same options with every `None` replaced by the method's published value, except `views`."""
    values = _PUBLISHED[options.method]
    return attrs.evolve(
        options, **{name: value for name, value in values.items() if getattr(options, name) is None}
    )
