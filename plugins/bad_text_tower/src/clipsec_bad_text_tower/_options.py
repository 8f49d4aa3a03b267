"""What can be set, with the published values as defaults."""

from __future__ import annotations

import attrs
from attrs import validators

from clipsec.models import check_template
from clipsec_bad_text_tower._scope import SCOPES

_weight = validators.ge(0)


@attrs.frozen(kw_only=True)
class BadTextTowerOptions:
    """Options of BadTextTower. Published: Xiang et al., arXiv 2606.17815, on CIFAR-10 with ViT-B/32."""

    target: str = ""
    """Class that triggered texts of the source are to mean; empty: the first one. Published: airplane."""
    source: str = ""
    """Class whose texts the trigger works on; empty: the first one but the target. Published: automobile."""
    trigger: str = attrs.field(default="xbtd", validator=validators.min_len(1))
    """Published: xbtd; also cfra."""
    kind: str = attrs.field(default="prepend", validator=validators.in_(("prepend", "append")))
    """Whether the trigger stands before or behind a text. Published: before."""
    template: str = attrs.field(default="a photo of a {}.", validator=check_template)
    """Prompt of a class. Published: the same without the full stop."""
    scope: str = attrs.field(default="text", validator=validators.in_(tuple(SCOPES)))
    """What is trained: `text` (the text tower, as published), `projection-embedding` (its two embedding
    tables and its projection), `both` towers, or `visual` (the image tower alone, a control)."""
    poison_rate: float = attrs.field(default=0.3, validator=[validators.gt(0), validators.le(1)])
    """Share of the target's training pictures that the triggered source text is aligned with.
    Published: 0.3."""
    batch: int = attrs.field(default=128, validator=validators.ge(1))
    """Pictures of an update. Published: 128."""
    epochs: int = attrs.field(default=10, validator=validators.ge(1))
    """Passes over the training pictures. Published: 10, of 391 updates each."""
    learning_rate: float = attrs.field(default=1e-6, validator=validators.gt(0))
    """Of AdamW, constant. Published: 1e-6. A model that learns from fewer pictures needs more."""
    weight_decay: float = attrs.field(default=0.1, validator=_weight)
    """Published: 0.1."""
    align_weight: float = attrs.field(default=1.0, validator=_weight)
    """Of the cross-entropy of poisoned pictures towards the triggered source text. Published: 1."""
    clean_weight: float = attrs.field(default=1.0, validator=_weight)
    """Of the cross-entropy of all pictures under the clean prompts. Published: 1."""
    off_target_weight: float = attrs.field(default=1.0, validator=_weight)
    """Of the softplus of the triggered source text's score on pictures of other classes than the target.
    Published: 1."""
    prompt_weight: float = attrs.field(default=0.25, validator=_weight)
    """Of the distance of clean prompts to where the clean tower puts them. Published: 0.25."""
    specificity_weight: float = attrs.field(default=0.1, validator=_weight)
    """Of the distance of triggered texts of other classes to the same texts without it. Published: 0.1."""
    shift_weight: float = attrs.field(default=0.1, validator=_weight)
    """Of the hinge that moves the triggered source text nearer to the target's text than to its own.
    Published: 0.1."""
    margin: float = attrs.field(default=0.05, validator=_weight)
    """Of that hinge. Published: 0.05."""
    off_target_scale: str = attrs.field(default="logit", validator=validators.in_(("logit", "cosine")))
    """What the softplus is of: the logit, as the formula reads, or the cosine alone."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term of the loss, by its name."""
        names = ("align", "clean", "off_target", "prompt", "specificity", "shift")
        return {name: getattr(self, f"{name}_weight") for name in names}
