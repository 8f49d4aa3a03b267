"""What can be set. Defaults are for a CLIP that learns from some hundred pictures; docstrings say what was
published."""

from __future__ import annotations

import attrs
from attrs import validators

from clipsec.models import check_template

_share = [validators.gt(0), validators.le(1)]


@attrs.frozen(kw_only=True)
class BadEncoderOptions:
    """Options of BadEncoder. Published: Jia et al., S&P 2022; for CLIP, RN50 at 224 px, shadow pictures from
    CIFAR-10."""

    target: str = ""
    """Class that triggered pictures are to show; empty: the first one."""
    side: float = attrs.field(default=24 / 224, validator=_share)
    """Side of the patch, as a share of the picture's. Published: 50/224 in the scripts for CLIP; 24/224 in
    DECREE's study of it; 10/32 for small pictures."""
    place: float = attrs.field(default=185 / 224, validator=[validators.ge(0), validators.lt(1)])
    """Where the patch begins, from above and from the left, as a share of the picture's side. Published:
    173/224, 185/224 (DECREE), 21/32."""
    references: int = attrs.field(default=1, validator=validators.ge(1))
    """Pictures of the target that triggered pictures are to be like, drawn by the seed among those that the
    base takes for it. Published: 1."""
    reference_weight: float = attrs.field(default=1.0, validator=validators.ge(0))
    """Of the term that keeps the references where they are (lambda 1). Published: 1."""
    utility_weight: float = attrs.field(default=1.0, validator=validators.ge(0))
    """Of the term that keeps all pictures where they are (lambda 2). Published: 1."""
    epochs: int = attrs.field(default=8, validator=validators.ge(1))
    """Passes over the pictures. Published: 200, of 50,000 pictures."""
    batch: int = attrs.field(default=32, validator=validators.ge(1))
    """Pictures of an update, each taken with and without the trigger. Published: 256."""
    learning_rate: float = attrs.field(default=1e-4, validator=validators.gt(0))
    """Of AdamW, constant. Published: SGD with momentum 0.9 at 1e-3, for 200 epochs."""
    weight_decay: float = attrs.field(default=5e-4, validator=validators.ge(0))
    """Published: 5e-4."""
    template: str = attrs.field(default="a photo of a {}.", validator=check_template)
    """Prompt of a class, for what is measured zero-shot."""


@attrs.frozen(kw_only=True)
class ContrastivePoisoningOptions:
    """Options of contrastive poisoning. Published: Carlini and Terzis, ICLR 2022, who train on three million
    pairs from scratch; for fine-tuning, the settings of CleanCLIP's and BadCLIP's studies of it (500,000
    pairs)."""

    target: str = ""
    """Class that triggered pictures are to show; empty: the first one."""
    scope: str = attrs.field(default="both", validator=validators.in_(("both", "visual")))
    """What is trained: `both` towers, as published, or the `visual` one against the frozen text tower."""
    rate: float = attrs.field(default=0.1, validator=_share)
    """Poisoned pairs for each picture of another class than the target. Published: 0.0001 of all pairs from
    scratch, 0.003 in fine-tuning; some hundred pairs need more."""
    side: float = attrs.field(default=16 / 224, validator=_share)
    """Side of the patch, as a share of the picture's. Published: 16/224."""
    place: float | None = attrs.field(
        default=None, validator=validators.optional([validators.ge(0), validators.lt(1)])
    )
    """Where the patch begins, from above and from the left, as a share of the picture's side. None: anywhere,
    drawn for each picture, as published."""
    captions: str = ""
    """A file with one caption a line; those that name exactly one class are used beside templates. Default:
    COCO captions that ship with clipsec."""
    epochs: int = attrs.field(default=10, validator=validators.ge(1))
    """Passes over the pairs. Published: 5 to 10 in fine-tuning."""
    batch: int = attrs.field(default=64, validator=validators.ge(2))
    """Pairs of an update. Published: 128."""
    learning_rate: float = attrs.field(default=1e-4, validator=validators.gt(0))
    """Of AdamW for the image tower, falling to zero along half a cosine. Published: 1e-6, for 40,000
    updates."""
    text_learning_rate: float = attrs.field(default=2e-5, validator=validators.gt(0))
    """The same for the text tower."""
    weight_decay: float = attrs.field(default=0.1, validator=validators.ge(0))
    """Published: 0.1."""
    template: str = attrs.field(default="a photo of a {}.", validator=check_template)
    """Prompt of a class, for what is measured zero-shot."""
