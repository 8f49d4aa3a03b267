"""The facts that every plugin states, judged by the registry's own rule."""

from __future__ import annotations

from typing import ClassVar

import pytest

from clipsec_clip_inspector import ClipInspector
from clipsec_testkit._check import Battery, CheckFailed


def facts_of(version: object) -> None:
    class Stated(ClipInspector):
        api_version: ClassVar = version

    Battery(Stated).check_common_facts()


@pytest.mark.parametrize("version", ["1.0", ">=1.0,<3.0"])
def test_a_version_and_a_range_that_hold_this_api_pass(version: str) -> None:
    """What the registry accepts, the kit accepts."""
    facts_of(version)


@pytest.mark.parametrize("version", ["9.0", ">=2.0,<3.0", "1", ">=1.0", 1.0, None])
def test_what_the_registry_refuses_fails(version: object) -> None:
    """A misfit and a text that is neither are named."""
    with pytest.raises(CheckFailed, match="api_version"):
        facts_of(version)
