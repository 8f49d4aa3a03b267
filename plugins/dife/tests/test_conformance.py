"""Every interface passes the battery that every interface has to pass."""

from __future__ import annotations

import pytest

import clipsec_dife
from clipsec_testkit import InterfaceConformance

INTERFACES = sorted(clipsec_dife.__all__)
_QUICK = {"PromptTuned": {"steps": 5}, "LinearProbe": {"bank": 48}}


def _battery(name: str) -> type:
    facts = {"make": getattr(clipsec_dife, name), "options": {"cases": 48, **_QUICK.get(name, {})}}
    return type(f"Test{name}", (InterfaceConformance,), facts)


for _name in INTERFACES:
    globals()[f"Test{_name}"] = _battery(_name)


@pytest.mark.parametrize("name", INTERFACES)
def test_it_states_its_facts(name: str) -> None:
    """A sentence for `clipsec list --load`, the paper, and a card without an empty field."""
    interface = getattr(clipsec_dife, name)
    assert interface.summary
    assert "arXiv:2606.17815" in interface.references
