"""Messages between a worker and its parent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from clipsec.errors import ContractError
from clipsec.isolation._frames import HEADER, MAGIC, Frame, Reader, pack

LIMIT = 1 << 16
PLAIN = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "kind"),
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.floats(-1e300, 1e300),
    max_size=4,
)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[Reader, int]]:
    """A reader, and the end of its pipe to write to."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    try:
        yield Reader(ours, LIMIT), theirs
    finally:
        os.close(ours)
        with contextlib.suppress(OSError):
            os.close(theirs)


@given(
    fields=PLAIN, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]), cut=st.integers(1, 99)
)
def test_a_message_arrives_as_it_was_sent(fields: dict[str, object], dtype: torch.dtype, cut: int) -> None:
    """However the pipe cuts it up, and nothing is handed over before it is whole."""
    rows = torch.arange(12).reshape(3, 4).to(dtype)[:, ::2]
    whole = b"".join(pack("encode", fields, {"rows": rows, "same": rows}))
    with pipe() as (reader, theirs):
        got: list[Frame] = []
        for start in range(0, len(whole), cut):
            assert not got
            os.write(theirs, whole[start : start + cut])
            if (frame := reader.read()) is not None:
                got.append(frame)
        (frame,) = got
    assert (frame.kind, frame.fields) == ("encode", fields)
    assert torch.equal(frame.tensor("rows"), rows)
    assert frame.tensor("same").dtype == dtype


@given(st.binary(max_size=200), st.booleans())
def test_rubbish_is_refused(rubbish: bytes, with_header: bool) -> None:
    """Whatever arrives is a message, the beginning of one, or a ContractError."""
    text = rubbish[: len(rubbish) // 2]
    header = HEADER.pack(MAGIC, len(text), len(rubbish) - len(text)) if with_header else b""
    with pipe() as (reader, theirs):
        os.write(theirs, header + rubbish)
        os.close(theirs)
        with contextlib.suppress(ContractError, EOFError):
            while (frame := reader.read()) is not None:
                assert isinstance(frame, Frame)


@pytest.mark.parametrize("lengths", [(1 << 31, 0), (10, LIMIT + 1), (10, 1 << 63)])
def test_a_length_beyond_the_bound_is_refused_before_memory_is_taken(lengths: tuple[int, int]) -> None:
    """The header alone decides."""
    with pipe() as (reader, theirs):
        os.write(theirs, HEADER.pack(MAGIC, *lengths))
        with pytest.raises(ContractError, match="longer than"):
            reader.read()


def test_fields_are_of_their_type() -> None:
    """A truth value is no number, a list holds texts only, a tensor must be there."""
    frame = Frame("x", {"id": True, "names": ["a", 1]})
    for read in (lambda: frame.whole("id"), lambda: frame.texts("names"), lambda: frame.tensor("rows")):
        with pytest.raises(ContractError):
            read()
