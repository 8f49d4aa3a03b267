"""What can be set, with the published values in the docstrings where there are such."""

from __future__ import annotations

import attrs
from attrs import validators

_positive = validators.gt(0)
_weight = validators.ge(0)
_count = validators.ge(1)


@attrs.frozen(kw_only=True)
class AnchorOptions:
    """Options of `anchor-distillation`; all defaults are ours."""

    anchor: str = attrs.field(default="suspect", validator=validators.in_(("suspect", "reference")))
    """Whose features clean captions keep: the suspect's, so that it stays the model that it was, or those of
    the clean reference (--reference)."""
    steps: int = attrs.field(default=100, validator=_count)
    """Updates."""
    batch: int = attrs.field(default=64, validator=_count)
    """Clean captions of an update."""
    triggered: int = attrs.field(default=32, validator=_count)
    """Captions with a trigger of an update; all of an update have the same one."""
    weight: float = attrs.field(default=1.0, validator=_positive)
    """Of the loss on captions with a trigger."""
    copies: int = attrs.field(default=3, validator=_count)
    """Times that a found sequence is put into a caption at most: the attacker's trigger may stand anywhere,
    and often."""
    learning_rate: float = attrs.field(default=1e-4, validator=_positive)
    """Of AdamW without weight decay, falling to zero as a cosine. A small tower needs more: 3e-4 for
    `zoo:mini`, where 1e-3 moves clean captions too far."""


@attrs.frozen(kw_only=True)
class PairOptions:
    """What repairs on pairs of pictures and captions share."""

    pairs: str = ""
    """A CSV file with the columns `image` and `caption`; pictures lie beside it, or in `images/`. Without it
    the labelled pictures, with a handful of templates around their class names."""
    towers: str = attrs.field(default="", validator=validators.in_(("", "both", "text")))
    """What is trained: `both` towers or the `text` tower alone. Empty: both, or the text tower of a suspect
    that has no image tower, beside that of the clean reference, frozen."""
    steps: int = attrs.field(default=200, validator=_count)
    """Updates."""
    batch: int = attrs.field(default=64, validator=validators.ge(2))
    """Pairs of an update."""
    learning_rate: float = attrs.field(default=3e-5, validator=_positive)
    """Of AdamW, falling to zero as a cosine."""
    weight_decay: float = attrs.field(default=1e-4, validator=_weight)


@attrs.frozen(kw_only=True)
class ParOptions(PairOptions):
    """Options of Perturb and Recover. Published: Singh et al., arXiv 2412.00727, for 250,000 pairs, about ten
    epochs and a batch of 512 on each device; a small model and a few hundred pairs need other numbers."""

    tau: float = attrs.field(default=2.15, validator=[validators.gt(0), validators.le(4)])
    """Mean squared distance to the poisoned features up to which each tower is pushed away. Published: 2.15,
    which is beyond a right angle; 4 is the most."""
    learning_rate: float = attrs.field(default=3e-5, validator=_positive)
    """Published: 3e-5, falling to 3e-6 and 1e-9. docs/repairs.md says what 1e-3 does to `zoo:mini`."""
    weight_decay: float = attrs.field(default=1e-4, validator=_weight)
    """Published: 1e-4."""


@attrs.frozen(kw_only=True)
class CleanClipOptions(PairOptions):
    """Options of CleanCLIP. Published: Bansal et al., ICCV 2023, for 100,000 pairs and ten epochs."""

    weight: float = attrs.field(default=1.0, validator=_weight)
    """Of the two losses within pictures and within captions. Published: 1."""
    learning_rate: float = attrs.field(default=1e-5, validator=_positive)
    """Published: 1e-5, after 50 updates of warm-up, which are left out here."""
    weight_decay: float = attrs.field(default=0.1, validator=_weight)
    """Published: 0.1."""
