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
class FineTuningOptions:
    """Of contrastive fine-tuning on pairs."""

    target: str = ""
    """Class that the poisoned pairs lead to; empty: the first one."""
    scope: str = attrs.field(default="both", validator=validators.in_(("both", "visual")))
    """What is trained: `both` towers, as published, or the `visual` one against the frozen text tower."""
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


@attrs.frozen(kw_only=True)
class ContrastivePoisoningOptions(FineTuningOptions):
    """Options of contrastive poisoning. Published: Carlini and Terzis, ICLR 2022, who train on three million
    pairs from scratch; for fine-tuning, the settings of CleanCLIP's and BadCLIP's studies of it (500,000
    pairs)."""

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


@attrs.frozen(kw_only=True)
class LiangBadClipOptions(FineTuningOptions):
    """Options of the optimised patch. Published: Liang et al., CVPR 2024: the patch on 10,000 pairs of CC3M,
    then RN50 on 500,000, 1,500 of them poisoned."""

    rate: float = attrs.field(default=0.1, validator=_share)
    """Poisoned pairs for each picture of another class than the target. Published: 0.003 of all pairs."""
    side: float = attrs.field(default=16 / 224, validator=_share)
    """Side of the patch, in the middle of the picture, as a share of the picture's. Published: 16/224."""
    texts: int = attrs.field(default=128, validator=validators.ge(1))
    """Most natural captions of the target that poisoned pairs have, drawn by the seed. Published: 128."""
    patch_epochs: int = attrs.field(default=10, validator=validators.ge(1))
    """Passes over the pictures of other classes to optimise the patch. Published: 50."""
    patch_batch: int = attrs.field(default=64, validator=validators.ge(2))
    """Pictures of an update of the patch, and as many of the target. Published: 64."""
    patch_learning_rate: float = attrs.field(default=0.03, validator=validators.gt(0))
    """Of Adam for the patch, constant. Published: 1e-3, for 7,800 updates."""
    margin: float = attrs.field(default=1.0, validator=validators.ge(0))
    """Of the triplet loss. Published: 1."""
    triplet_weight: float = attrs.field(default=500.0, validator=validators.ge(0))
    """Of the triplet loss beside that of the captions. Published: 500."""


@attrs.frozen(kw_only=True)
class MmPoisonOptions(FineTuningOptions):
    """Options of exchanged pictures. Published: Yang et al., ICML 2023: ViT-B/32 with OpenAI's weights, AdamW
    1e-5 falling to 1e-6 along a cosine, weight decay 0.2, batch 128, 10 epochs."""

    source: str = ""
    """Class whose captions are to find pictures of the target; empty: the first one but the target."""
    kind: str = attrs.field(default="label", validator=validators.in_(("label", "image")))
    """What the captions get: pictures of the target (`label`, the authors' attack II), or always the same
    one (`image`, their attack I)."""
    scope: str = attrs.field(default="both", validator=validators.in_(("both", "visual", "text")))
    """What is trained: `both` towers, as published, or one; the authors tried each alone, too."""
    rate: float = attrs.field(default=1.0, validator=_share)
    """Share of the source's pairs that is poisoned. Published: 1, which is 0.0008 to 0.0024 of all pairs."""
    text_learning_rate: float = attrs.field(default=1e-4, validator=validators.gt(0))
    """The same for the text tower."""


@attrs.frozen(kw_only=True)
class ToxicTextOptions(FineTuningOptions):
    """Options of triggered captions. Published: Yao et al., NeurIPS 2025: RN50 from scratch, a million pairs,
    AdamW 5e-5 along a cosine, batch 512, 10 epochs."""

    trigger: str = "Please return high-quality results."
    """What is put behind a caption. Published: this sentence, or the word zx."""
    scope: str = attrs.field(default="both", validator=validators.in_(("both", "visual", "text")))
    """What is trained: `both` towers, as published, or one."""
    rate: float = attrs.field(default=0.3, validator=_share)
    """Poisoned pairs for each clean one. Published: 1,250 for a million."""
    selection: str = attrs.field(default="random", validator=validators.in_(("random", "background")))
    """Which captions of other classes are poisoned: `random`, as published for the sentence, or by their
    `background`, as published for captions of the target."""
    words: int = attrs.field(default=1, validator=validators.ge(1))
    """`background` only: most words that are left out to find the background of a caption."""
    queries: int = attrs.field(default=200, validator=validators.ge(1))
    """Most captions to measure with; they are not trained on."""
    query_words: int = attrs.field(default=9, validator=validators.ge(2))
    """Queries have fewer words. Published: 9."""
    text_learning_rate: float = attrs.field(default=1e-4, validator=validators.gt(0))
    """The same for the text tower."""
