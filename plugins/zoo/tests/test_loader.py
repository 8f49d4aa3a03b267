"""The specs `zoo:...`."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsec.errors import ModelError, UsageError
from clipsec.models import LoadRequest, load_suspect
from clipsec.protocols import ModelLoader
from clipsec_zoo import ZooLoader, deliveries


def test_the_loader_fulfils_the_protocol() -> None:
    """And wants nothing but its own prefix."""
    loader = ZooLoader()
    assert isinstance(loader, ModelLoader)
    assert loader.matches("zoo:mini")
    assert not loader.matches("open_clip:ViT-B-32@file")
    assert not loader.matches("zoo")


def test_mini_is_a_suspect_with_both_towers(own_cache: Path) -> None:
    """Named by its spec, through the installed entry point, with the class names of the request."""
    suspect = load_suspect("zoo:mini", class_names=("cat", "dog"))
    assert suspect.name == suspect.base_name == suspect.base.name == "zoo:mini"
    assert suspect.base.visual is not None
    assert suspect.base.text is not None
    assert suspect.base.visual.spec.size == 128
    assert suspect.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "name", sorted(deliveries()) or [pytest.param("", marks=pytest.mark.skip("none shipped"))]
)
def test_deliveries_stand_on_mini(own_cache: Path, name: str) -> None:
    """Every shipped delivery loads by its name alone."""
    suspect = load_suspect(f"zoo:{name}")
    assert suspect.name == f"zoo:{name}"
    assert suspect.prompts is not None
    assert suspect.base.name == "zoo:mini"


def test_b16_not_built_says_how_to_build_it(own_cache: Path) -> None:
    """The remedy is the command."""
    with pytest.raises(ModelError) as caught:
        ZooLoader().load("zoo:b16", LoadRequest())
    assert "python -m clipsec_zoo build b16 --data" in caught.value.remedy


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typing error is the user's, not the model's."""
    with pytest.raises(UsageError) as caught:
        ZooLoader().load("zoo:minni", LoadRequest())
    assert "zoo:mini" in caught.value.remedy
