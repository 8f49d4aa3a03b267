"""What can be set of the token scan; all defaults are ours."""

from __future__ import annotations

import attrs
from attrs import validators


@attrs.frozen(kw_only=True)
class Options:
    """Options of `token-scan`."""

    tokens: int = attrs.field(default=1000, validator=validators.or_(validators.in_((0,)), validators.ge(60)))
    """Scan so many tokens, at least 60: those whose embeddings differ most between suspect and reference,
    which training on a trigger changes. 0: the whole vocabulary, which is also scanned where no embedding
    differs."""
    captions: int = attrs.field(default=2, validator=validators.ge(1))
    """Captions that every token is put into, at the start and at the end."""
    held_out: int = attrs.field(default=32, validator=validators.ge(4))
    """Other captions, that the score is measured on."""
    length: int = attrs.field(default=3, validator=validators.ge(1))
    """Most tokens of a sequence."""
    pool: int = attrs.field(default=24, validator=validators.ge(2))
    """Tokens that sequences are made of: half of them those that do most alone, half those whose embeddings
    differ most."""
    beam: int = attrs.field(default=8, validator=validators.ge(1))
    """Sequences of a length that the next length is grown from."""
    finalists: int = attrs.field(default=4, validator=validators.ge(1))
    """Sequences of each length that are measured on the held-out captions."""
    threshold: float = attrs.field(default=1.0, validator=validators.gt(0))
    """Score above which a sequence is a trigger. The score is the pull in units of what was calibrated for
    its length, so 1 leaves the calibration as it is."""
