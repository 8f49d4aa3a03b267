"""What all interfaces of this distribution state and share."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs import validators

from clipsec.errors import NotApplicableError
from clipsec.protocols import Need

PAPER = "arXiv:2606.17815"
AS_CLEAN = "the same case without the trigger; the clean reference model with and without it"
OTHERS = "held-out pictures of other classes than the target"
PICTURES = "held-out pictures"


@attrs.frozen(kw_only=True)
class Options:
    """Options that every interface has."""

    cases: int = attrs.field(default=1000, validator=validators.ge(1))
    """Most cases; drawn by the seed when there are more."""


class Facts:
    """Facts of an interface that its class does not state itself."""

    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CLASS_NAMES})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = (PAPER,)


def too_few(what: str) -> NotApplicableError:
    """The error for data that make no case."""
    return NotApplicableError(f"too few cases: {what}", remedy="Bring more labelled pictures or captions.")
