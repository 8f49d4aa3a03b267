"""Units of work survive kills, and nothing damaged is ever read as a result."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.errors import ContractError, StoreError
from clipsec.store import UnitStore

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def same(left: object, right: object) -> bool:
    """Equality in which NaN equals itself and 1 is not 1.0."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


@settings(max_examples=60, deadline=None)
@given(name=st.text(), data=st.dictionaries(st.text(), plain, max_size=4))
def test_any_name_and_any_plain_data_come_back(tmp_path_factory, name, data):
    """Whatever is saved is loaded: unusual names, NaN, infinities, keys that look like our own tags."""
    store = UnitStore(tmp_path_factory.mktemp("units"))
    store.save(name, data)
    unit = store.load(name)
    assert unit is not None
    assert unit.name == name
    assert same(unit.data, data)
    assert store.names() == [name]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_come_back_bit_for_bit_with_their_dtype(tmp_path, dtype):
    """Tensors keep dtype, shape and bits, also views that share memory and empty ones."""
    base = torch.arange(12).reshape(3, 4).to(dtype)
    tensors = {"whole": base, "view": base.T, "row": base[0], "none": base[:0]}
    UnitStore(tmp_path).save("u", {}, tensors)
    unit = UnitStore(tmp_path).load("u")
    assert unit is not None
    for key, tensor in tensors.items():
        assert unit.tensors[key].dtype == dtype
        assert torch.equal(unit.tensors[key], tensor)


def test_names_that_differ_only_for_some_file_systems_stay_apart(tmp_path):
    """Case, slashes, dots, long and empty names give different files inside the folder."""
    store = UnitStore(tmp_path)
    names = [
        "a",
        "A",
        "../a",
        "/a",
        "a/",
        "",
        ".",
        "..",
        "CON",
        "x" * 500,
        "x" * 501,
        "é",
        "e\u0301",
        "\ud800",
    ]
    for position, name in enumerate(names):
        store.save(name, {"position": position})
    assert store.names() == sorted(names)
    assert all(store.load(name).data == {"position": position} for position, name in enumerate(names))
    files = list(tmp_path.rglob("*"))
    assert len({path.name.lower() for path in files}) == len(files) == len(names)
    assert not list(tmp_path.parent.glob("*.json"))


def test_an_absent_unit_is_none_without_a_word(tmp_path, caplog):
    """Not having started is the normal case and is not logged."""
    assert UnitStore(tmp_path / "nowhere").load("u") is None
    assert UnitStore(tmp_path / "nowhere").names() == []
    assert not caplog.records


@pytest.fixture
def saved(tmp_path):
    store = UnitStore(tmp_path)
    store.save("u", {"loss": 0.25}, {"delta": torch.arange(64.0)})
    (document,) = tmp_path.glob("*.json")
    (twin,) = tmp_path.glob("*.safetensors")
    return store, document, twin


def test_a_json_truncated_anywhere_is_absent(saved, caplog):
    """Every proper prefix of the JSON reads as not done, and the log says why."""
    store, document, _ = saved
    content = document.read_bytes()
    for length in range(len(content)):
        document.write_bytes(content[:length])
        assert store.load("u") is None
    assert store.names() == []
    assert "counts as not done" in caplog.text
    document.write_bytes(content)
    assert store.load("u").data == {"loss": 0.25}


def test_a_json_with_any_bit_flipped_is_absent(saved):
    """No single flipped bit in the JSON changes what is read: it is the same data or nothing."""
    store, document, _ = saved
    content = document.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        document.write_bytes(damaged)
        assert store.load("u") is None, position


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty", "other unit's"])
def test_a_damaged_twin_makes_the_unit_absent(saved, damage):
    """Tensors that are not the recorded ones are never handed out."""
    store, _, twin = saved
    content = twin.read_bytes()
    if damage == "truncate":
        twin.write_bytes(content[:-1])
    elif damage == "flip":
        twin.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        twin.write_bytes(b"")
    elif damage == "remove":
        twin.unlink()
    else:
        store.save("other", {}, {"delta": torch.zeros(64)})
        (other,) = (path for path in store.folder.glob("other*.safetensors"))
        twin.write_bytes(other.read_bytes())
    assert store.load("u") is None
    assert "u" not in store.names()


def test_an_edited_number_is_not_believed(saved):
    """Changing a score in the file by hand makes the unit absent, not different."""
    store, document, _ = saved
    document.write_text(document.read_text().replace("0.25", "0.75"))
    assert store.load("u") is None


def test_a_file_renamed_to_another_unit_is_absent(saved):
    """A unit copied over another's file name is not taken for it."""
    store, document, _ = saved
    store.save("v", {"loss": 1.0})
    (other,) = (path for path in store.folder.glob("v*.json"))
    other.write_bytes(document.read_bytes())
    assert store.load("v") is None
    assert store.names() == ["u"]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{}", '{"sha256": 3}', "[" * 100_000, '{"a": NaN}', "\xff"]
)
def test_foreign_files_are_absent(tmp_path, text):
    """Anything may lie in the folder; none of it reads as a unit or raises."""
    store = UnitStore(tmp_path)
    store.save("u", {})
    (document,) = tmp_path.glob("*.json")
    document.write_text(text, encoding="latin-1")
    (tmp_path / "stray.json").write_text(text, encoding="latin-1")
    assert store.load("u") is None
    assert store.names() == []


def test_replacing_a_unit_removes_its_old_tensors(saved):
    """No orphaned twin stays behind, and a unit may lose its tensors."""
    store, _, twin = saved
    store.save("u", {}, {"delta": torch.zeros(3)})
    assert not twin.exists()
    assert torch.equal(store.load("u").tensors["delta"], torch.zeros(3))
    store.save("u", {})
    assert not list(store.folder.glob("*.safetensors"))
    assert store.load("u").tensors == {}


@pytest.mark.parametrize(
    "bad", [{"x": torch.zeros(2)}, {"x": {1: 2}}, {"x": b"bytes"}, {"x": {1, 2}}, {"x": Path("p")}]
)
def test_data_that_json_cannot_hold_is_refused_with_the_place(tmp_path, bad):
    """The error names the entry, and nothing is written."""
    with pytest.raises(ContractError, match=r"data\['x'\]") as caught:
        UnitStore(tmp_path).save("u", bad)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("when", [1, 2])
def test_a_full_disk_is_an_error_with_a_remedy_and_keeps_what_was_there(saved, monkeypatch, call, when):
    """ENOSPC at any system call of either file raises StoreError; the earlier unit stays, no litter does."""
    store, _, _ = saved
    calls = 0
    real = getattr(os, call)

    def failing(*args, **kwargs):
        nonlocal calls
        if call == "open" and not str(args[0]).endswith(".tmp"):
            return real(*args, **kwargs)
        calls += 1
        if calls >= when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StoreError, match="No space left") as caught:
            store.save("u", {"loss": 9.0}, {"delta": torch.ones(64)})
    assert "Free some space" in caught.value.remedy
    unit = store.load("u")
    assert unit is not None
    # The folder is flushed after the rename, so a failure there may find the new unit already in place.
    assert unit.data in ([{"loss": 0.25}, {"loss": 9.0}] if call == "fsync" else [{"loss": 0.25}])
    assert len(list(store.folder.iterdir())) == 2


def test_a_file_size_limit_of_the_system_is_reported_and_harmless(tmp_path):
    """A real limit (RLIMIT_FSIZE), not a simulated one: StoreError, and the smaller unit stays."""
    resource = pytest.importorskip("resource")
    store = UnitStore(tmp_path)
    store.save("small", {"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError):
            store.save("large", {}, {"delta": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.names() == ["small"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_really_full_disk_keeps_every_finished_unit(tmp_path):
    """On a file system of 64 KiB: units until it is full, then StoreError, and all earlier ones load."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        store = UnitStore(mount)
        done: list[str] = []

        def fill():
            for position in range(100):
                store.save(f"class {position}", {}, {"delta": torch.full((1000,), float(position))})
                done.append(f"class {position}")

        with pytest.raises(StoreError) as caught:
            fill()
        assert "Free some space" in caught.value.remedy
        assert done
        assert store.names() == sorted(done)
    finally:
        subprocess.run(["umount", mount], check=True)


WRITER = """
import sys, torch
from clipsec.store import UnitStore
store = UnitStore(sys.argv[1])
print("ready", flush=True)
for round in range(10**9):
    for name in "abc":
        store.save(name, {"round": round}, {"delta": torch.full((20_000,), float(round))})
"""


def test_killed_while_writing_leaves_whole_units(tmp_path):
    """SIGKILL at arbitrary moments: each unit is there whole, with tensors of the same save as its data."""
    store = UnitStore(tmp_path)
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.15 + 0.037 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert set(store.names()) == set("abc")
        for name in "abc":
            unit = store.load(name)
            assert unit.tensors["delta"].eq(unit.data["round"]).all()


def test_the_log_names_the_file(saved, caplog):
    """A damaged unit is reported with its path, so that somebody can look at it."""
    store, document, _ = saved
    document.write_text(json.dumps({"half": True}))
    with caplog.at_level(logging.WARNING, logger="clipsec.store"):
        store.load("u")
    assert document.name in caplog.text


def test_clear_removes_units_and_tensors(saved):
    """A fresh run starts from nothing, and other files in the folder stay."""
    store, _, _ = saved
    (store.folder / "note.txt").write_text("mine")
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == ["note.txt"]
    UnitStore(store.folder / "nowhere").clear()
