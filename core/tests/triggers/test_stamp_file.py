"""Stamps as files."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from clipsec.errors import DataError
from clipsec.triggers import Stamp, read_stamp, stamp_bytes

STAMPS = [
    Stamp("additive", {"delta": torch.rand(3, 8, 8)}),
    Stamp("masked", {"pattern": torch.rand(3, 8, 8), "mask": torch.rand(1, 8, 8)}),
    Stamp("blend", {"pattern": torch.rand(3, 8, 8)}, {"ratio": 0.35}),
    Stamp("warp", {"grid": torch.rand(8, 8, 2)}),
]


@pytest.mark.parametrize("stamp", STAMPS, ids=lambda stamp: stamp.kind)
def test_a_stamp_comes_back_as_it_was(stamp: Stamp) -> None:
    """Kind, tensors and values; other metadata does not disturb."""
    again = read_stamp(stamp_bytes(stamp, found="yes"))
    assert (again.kind, again.values) == (stamp.kind, stamp.values)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(again.apply(pixels), stamp.apply(pixels))


def test_files_without_a_kind_are_told_by_their_tensors() -> None:
    """As detectors wrote them before stamps had files."""
    masked = safetensors.torch.save({"pattern": torch.rand(3, 8, 8), "mask": torch.rand(1, 8, 8)})
    assert read_stamp(masked).kind == "masked"
    assert read_stamp(safetensors.torch.save({"delta": torch.rand(3, 8, 8)})).kind == "additive"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors",
        stamp_bytes(STAMPS[0])[:-5],
        safetensors.torch.save({"delta": torch.rand(3, 8, 8)}, metadata={"stamp": "[1]"}),
        safetensors.torch.save({"delta": torch.rand(3, 8, 8)}, metadata={"stamp": '{"kind": "blend"}'}),
        safetensors.torch.save({"delta": torch.rand(3, 8, 8)}, metadata={"stamp": '{"kind": "new"}'}),
    ],
)
def test_what_is_no_stamp_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"no trigger|cannot be applied"):
        read_stamp(content)
