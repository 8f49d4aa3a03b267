"""Damage anywhere in a model file: it loads, or it is a ModelError; never anything else, and nothing runs."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from clipsec.errors import ModelError
from clipsec.models._weights import read_weights

LIMIT = 2**24
TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b.weight": torch.arange(5),
    "half": torch.ones(2, 2).half(),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
}
fixed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def torch_bytes(value: Any, **kwargs: Any) -> bytes:
    out = BytesIO()
    torch.save(value, out, **kwargs)
    return out.getvalue()


FILES = {
    "safetensors": save(TENSORS, metadata={"format": "pt"}),
    "torch": torch_bytes({"state_dict": TENSORS, "epoch": 3}),
    "legacy": torch_bytes(TENSORS, _use_new_zipfile_serialization=False),
}


@pytest.fixture
def attempt(
    tmp_path: Path, watch: Callable[[], Any]
) -> Iterator[Callable[[bytes], dict[str, Tensor] | None]]:
    """`attempt(data)`: the tensors that a file with these bytes gives, or None when it is refused."""

    def read(data: bytes) -> dict[str, Tensor] | None:
        path = tmp_path / "weights.bin"
        path.write_bytes(data)
        seen: list[str]
        told = ("it", "loads")
        context: AbstractContextManager[list[str]] = watch()
        try:
            with context as seen:
                weights = read_weights(path, max_bytes=LIMIT)
            tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
        except ModelError as error:
            tensors, told = None, (error.message, error.remedy)
        assert seen == []
        assert all(told)
        assert "".join(told).isprintable()
        return tensors

    yield read
    assert [path.name for path in tmp_path.iterdir()] in ([], ["weights.bin"])


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_files_are_sound(kind: str, attempt: Any) -> None:
    """What is damaged below loads bit-equal before."""
    loaded = attempt(FILES[kind])
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("kind", sorted(FILES))
@fixed
@given(data=st.data())
def test_a_truncated_file_is_refused(kind: str, attempt: Any, data: st.DataObject) -> None:
    """A file cut anywhere is noticed."""
    whole = FILES[kind]
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert attempt(whole[:cut]) is None


@pytest.mark.parametrize("kind", sorted(FILES))
@fixed
@given(data=st.data())
def test_a_longer_file_is_refused(kind: str, attempt: Any, data: st.DataObject) -> None:
    """Bytes behind the end are noticed, but for the old format, which says nothing about its end."""
    more = data.draw(st.binary(min_size=1, max_size=40))
    loaded = attempt(FILES[kind] + more)
    assert loaded is None or kind == "legacy"


@pytest.mark.parametrize("kind", sorted(FILES))
@fixed
@given(data=st.data())
def test_flipped_bytes_load_or_are_refused(kind: str, attempt: Any, data: st.DataObject) -> None:
    """Changed bytes change numbers, or are refused; sizes stay below what the file holds."""
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    loaded = attempt(bytes(damaged))
    if loaded is not None:
        total = sum(tensor.numel() * tensor.element_size() for tensor in loaded.values())
        assert total <= 4 * len(damaged)


@fixed
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(attempt: Any, data: bytes) -> None:
    """Noise is no model."""
    assert not attempt(data)


PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F4", ""]),
        "shape": st.lists(st.integers(-1, 5) | st.just(2**62), max_size=3),
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2),
    }
)


@fixed
@given(st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=3), st.integers(0, 40))
def test_any_header_is_checked(attempt: Any, header: dict[str, Any], size: int) -> None:
    """A header of any JSON gives tensors that cover the file exactly, or an error."""
    text = json.dumps(header).encode()
    loaded = attempt(struct.pack("<Q", len(text)) + text + bytes(size))
    if loaded is not None:
        assert sum(tensor.numel() * tensor.element_size() for tensor in loaded.values()) == size


OPCODES = st.sampled_from(
    b"} ] ) ( t \x85 \x86 \x87 s u a e b R \x81 Q N K\x01 K\x04 q\x00 h\x00 q\x01 h\x01".split(b" ")
    + b"ctorch\nFloatStorage\n,ctorch._utils\n_rebuild_tensor_v2\n,ccollections\nOrderedDict\n".split(b",")
    + b"ctorch.optim.sgd\nSGD\n,ccollections\ndefaultdict\n,cposix\nsystem\n,cos\nremove\n".split(b",")
    + [b"X" + struct.pack("<I", len(text)) + text for text in (b"a", b"0", b"cpu", b"storage")]
)


@settings(fixed, max_examples=500)
@given(st.lists(OPCODES, max_size=25))
def test_any_pickle_is_followed_or_refused(attempt: Any, program: list[bytes]) -> None:
    """No order of instructions gets past the scan into something that is not a dictionary of tensors."""
    out = BytesIO()
    import zipfile

    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"".join(program) + b".")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(16))
    loaded = attempt(out.getvalue())
    if loaded is not None:
        assert all(isinstance(tensor, Tensor) and tensor.numel() <= 4 for tensor in loaded.values())


VALUES = st.recursive(
    PLAIN | st.binary(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
)


@fixed
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.integers(0, 5))
def test_pickles_of_plain_values_hold_no_state_dict(
    attempt: Any, value: dict[str, Any], protocol: int
) -> None:
    """Python's own pickles, of any protocol, are no weights."""
    assert not attempt(pickle.dumps(value, protocol=protocol))
