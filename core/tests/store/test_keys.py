"""Content keys: equal exactly when what decides a result is equal."""

from __future__ import annotations

import enum
from pathlib import Path, PurePosixPath

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.errors import ContractError
from clipsec.store import content_key


@attrs.frozen
class Options:
    steps: int = 32
    rate: float = 0.1


@attrs.frozen
class OtherOptions:
    steps: int = 32
    rate: float = 0.1


class Mode(enum.Enum):
    FAST = "fast"


def test_a_key_is_a_sha256_and_stays_the_same_between_releases():
    """The value for a fixed input is fixed: a change here would orphan every cached result."""
    key = content_key(weights="ab", options=Options(), dtype=torch.bfloat16, seed=1, names=("cat", "dog"))
    assert key == "523dd32c4cf30cbd7fc3cb25630b0af6b5f0a006a9e09aa8f5d6d3dd62164833"


@given(st.dictionaries(st.text(), st.integers() | st.floats() | st.text() | st.none() | st.booleans()))
def test_the_order_of_keys_does_not_matter(parts):
    """A mapping is its items, in whatever order they were written."""
    assert content_key(x=parts) == content_key(x=dict(reversed(parts.items())))


DIFFERENT = [
    1,
    1.0,
    True,
    "1",
    None,
    "None",
    [1],
    [[1]],
    {"a": 1},
    {"$a": 1},
    float("nan"),
    float("inf"),
    "NaN",
    {"$float": "NaN"},
    {1},
    b"1",
    torch.float32,
    torch.float64,
    "torch.float32",
    np.dtype("float32"),
    {"$dtype": "torch.float32"},
    Options(),
    Options(steps=33),
    OtherOptions(),
    {"steps": 32, "rate": 0.1},
    Mode.FAST,
    "fast",
    "",
    [],
    {},
]


def test_values_that_look_alike_have_different_keys():
    """A number is not its text, a truth value not a number, a class not its fields, a tag not our tag."""
    assert len({content_key(x=value) for value in DIFFERENT}) == len(DIFFERENT)


def test_part_names_count():
    """The same value under another name is another key."""
    assert content_key(a=1) != content_key(b=1)


@given(st.sets(st.text()))
def test_a_set_is_its_members(members):
    """Order of insertion does not show; string hashing differs between processes."""
    assert content_key(x=members) == content_key(x=frozenset(sorted(members, reverse=True)))


@pytest.mark.parametrize("path", [Path("/models/a"), PurePosixPath("a")])
def test_a_path_is_refused(path):
    """What lies at a path can change without the key noticing, so the caller must give a digest."""
    with pytest.raises(ContractError, match=r"key\['options'\]\['model'\].*path") as caught:
        content_key(options={"model": path})
    assert "digest" in caught.value.remedy


@pytest.mark.parametrize(
    "value", [object(), torch.zeros(2), lambda: None, torch.device("cpu"), {1: 2}, np.float32(1)]
)
def test_what_has_no_one_content_is_refused(value):
    """Guessing (repr, id, pickle) would make keys that differ by run or agree by accident."""
    with pytest.raises(ContractError):
        content_key(x=value)
