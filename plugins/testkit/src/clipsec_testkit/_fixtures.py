"""The pytest plugin: the toys as fixtures. Importing it is cheap; torch loads with the first toy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clipsec.data import ImagePool, LabelledSet
    from clipsec_testkit._toys import Toys


@pytest.fixture(scope="session")
def toy_clips() -> Toys:
    """The toy CLIPs, clean and backdoored, with their triggers: `toy_clips["visual"].suspect`."""
    from clipsec_testkit._toys import build_toys

    return build_toys()


@pytest.fixture(scope="session")
def toy_pool(toy_clips: Toys) -> ImagePool:
    """160 unlabelled toy pictures."""
    return toy_clips.pool


@pytest.fixture(scope="session")
def toy_labelled(toy_clips: Toys) -> LabelledSet:
    """128 labelled toy pictures of eight classes."""
    return toy_clips.labelled
