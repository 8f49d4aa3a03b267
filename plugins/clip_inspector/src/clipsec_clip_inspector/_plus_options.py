"""What CLIP-Inspector-plus can be set to."""

from __future__ import annotations

import attrs
from attrs import validators

from clipsec_clip_inspector._options import SearchOptions
from clipsec_clip_inspector._probes import FAMILIES


@attrs.frozen(kw_only=True)
class PlusOptions(SearchOptions):
    """Options of CLIP-Inspector-plus."""

    max_pictures: int = attrs.field(default=512, validator=validators.ge(2))
    """Pictures of the pool that are used, drawn by the seed. The search sees all of them, the probes at most
    256."""
    families: tuple[str, ...] = attrs.field(
        default=FAMILIES, validator=validators.deep_iterable(validators.in_(FAMILIES), validators.min_len(1))
    )
    """Families of probes: `noise` blended in, `warp`, `patch`, `additive` noise."""
    search: bool = False
    """Whether triggers are also searched for, as `clip-inspector` does it, with successive halving. Without
    the search an audit costs one pass of the classifier over the probes' features, and the error rates
    that ship are those of a large study."""
    threshold: float = attrs.field(default=1.0, validator=validators.gt(0))
    """Score above which a class is flagged. The score is the excess in units of what was calibrated, so 1
    leaves the calibration as it is."""

    @property
    def halving(self) -> bool:
        """Always: the paired null is what this detector is about."""
        return True
