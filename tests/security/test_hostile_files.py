"""A table of hostile model files. Each ends in one exact error with a remedy, and nothing else happens."""

from __future__ import annotations

import json
import os
import pickle
import resource
import stat
import struct
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clipsec.errors import (
    ClipsecError,
    MalformedModelError,
    ModelError,
    UnsafeModelError,
    UnsupportedModelError,
)
from clipsec.models import LoadRequest, load_clip, load_suspect

SECONDS = 10.0
MEGABYTES = 300
WEIGHTS = "open_clip_pytorch_model.bin"

Case = Callable[[Any], Any]
CASES: dict[str, tuple[Case, type[ModelError], str]] = {}


def case(error: type[ModelError], told: str) -> Callable[[Case], Case]:
    """Enter a function that makes a hostile delivery into the table."""

    def enter(make: Case) -> Case:
        CASES[make.__name__] = (make, error, told)
        return make

    return enter


# --- pickles -----------------------------------------------------------------------------------------------


@case(UnsafeModelError, "posix.system")
def command_in_a_state_dict(kit: Any) -> Path:
    torch.save({**kit.state, "extra": kit.touch()}, kit.open_clip() / WEIGHTS)
    return kit.folder


@case(UnsafeModelError, "posix.system")
def command_beside_a_state_dict(kit: Any) -> Path:
    torch.save({"state_dict": kit.state, "meta": [{"deep": (1, kit.touch())}]}, kit.open_clip() / WEIGHTS)
    return kit.folder


@case(UnsafeModelError, "posix.system")
def command_in_the_old_format(kit: Any) -> Path:
    torch.save({"a": kit.touch()}, kit.open_clip() / WEIGHTS, _use_new_zipfile_serialization=False)
    return kit.folder


@case(UnsafeModelError, "posix.system")
def command_in_a_second_pickle_of_the_old_format(kit: Any) -> Path:
    path = kit.open_clip() / WEIGHTS
    torch.save(kit.state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    at = data.rfind(b"\x80\x02]q\x00(")  # the list of storage keys follows the state dict
    assert at > 0
    path.write_bytes(data[:at] + pickle.dumps(kit.touch(), protocol=2) + data[at:])
    return kit.folder


@case(UnsafeModelError, "posix.system")
def command_in_a_plain_pickle(kit: Any) -> Path:
    return kit.bytes_as(WEIGHTS, pickle.dumps({"a": kit.touch()}, protocol=4))  # type: ignore[no-any-return]


@case(UnsafeModelError, "posix.system")
def command_in_a_protocol_2_pickle(kit: Any) -> Path:
    return kit.bytes_as(WEIGHTS, pickle.dumps({"a": kit.touch()}, protocol=2))  # type: ignore[no-any-return]


@case(UnsafeModelError, "posix.system")
def command_in_a_text_pickle(kit: Any) -> Path:
    return kit.bytes_as(WEIGHTS, pickle.dumps({"a": kit.touch()}, protocol=0))  # type: ignore[no-any-return]


@case(UnsafeModelError, "posix.system")
def command_before_a_damaged_end(kit: Any) -> Path:
    return kit.bytes_as(WEIGHTS, pickle.dumps([kit.touch()], protocol=2)[:-2] + b"\xff")  # type: ignore[no-any-return]


@case(MalformedModelError, "promises a header")
def pickle_called_safetensors(kit: Any) -> Path:
    data = pickle.dumps({"a": kit.touch()}, protocol=4)
    return kit.bytes_as("open_clip_model.safetensors", data)  # type: ignore[no-any-return]


@case(UnsafeModelError, "tar format")
def command_in_the_tar_format_of_2016(kit: Any) -> Path:
    path = kit.open_clip() / WEIGHTS
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(kit.touch(), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return kit.folder


@case(UnsafeModelError, "builtins.eval, subprocess.Popen")
def all_foreign_globals_are_named(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02csubprocess\nPopen\nc__builtin__\neval\n\x86.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "torch.hub.load")
def a_function_of_torch(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x00a\x85R.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "an extension.code")
def an_extension_code(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02\x82\x01.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "getattr")
def attribute_walking(kit: Any) -> Path:
    return kit.torch_zip(  # type: ignore[no-any-return]
        b"\x80\x02c__builtin__\ngetattr\nctorch._utils\n_rebuild_tensor_v2\nX\x0b\x00\x00\x00__globals__\x86R."
    )


@case(UnsafeModelError, "builtins.bytearray")
def bytearray_of_a_terabyte(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "torch.FloatTensor")
def tensor_of_a_terabyte(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02ctorch\nFloatTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "calls torch.FloatStorage")
def storage_that_is_called(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02ctorch\nFloatStorage\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "encodes text")
def a_slow_codec(kit: Any) -> Path:
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
    return kit.torch_zip(b"\x80\x02c_codecs\nencode\n" + text + b"X\x04\x00\x00\x00idna\x86R.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "nests values")
def tuples_that_double(kit: Any) -> Path:
    doubling = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    return kit.torch_zip(b"\x80\x02}X\x01\x00\x00\x00a" + doubling + b"K\x01s.")  # type: ignore[no-any-return]


@case(UnsafeModelError, "sets the inner state")
def inner_state_of_a_tensor(kit: Any) -> Path:
    data = b"\x80\x02ctorch\nSize\n)R}X\x01\x00\x00\x00aK\x01sb."
    return kit.torch_zip(data)  # type: ignore[no-any-return]


@case(UnsafeModelError, "that torch.save did not write (MEMOIZE")
def opcodes_that_torch_never_writes(kit: Any) -> Path:
    return kit.torch_zip(pickle.dumps({"a": [1, 2]}, protocol=4).replace(b"\x95", b"\x95", 1)[11:])  # type: ignore[no-any-return]


@case(MalformedModelError, "larger than its storage")
def one_number_as_a_terabyte(kit: Any) -> Path:
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, kit.open_clip() / WEIGHTS)
    return kit.folder


def tensor_pickle(
    key: str = "0", items: int = 4, offset: int = 0, shape: Any = (4,), stride: Any = (1,)
) -> bytes:
    """A dictionary of one tensor, as torch.save pickles it, with any numbers."""

    class Reference:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return (
                ("storage", torch.FloatStorage, key, "cpu", items) if isinstance(value, Reference) else None
            )

    class Tensor:
        def __reduce__(self) -> Any:
            from collections import OrderedDict

            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, (Reference(), offset, shape, stride, False, OrderedDict())

    out = BytesIO()
    Pickler(out, protocol=2).dump({"a": Tensor()})
    return out.getvalue()


@case(MalformedModelError, "larger than its storage")
def tensor_beyond_its_storage(kit: Any) -> Path:
    return kit.torch_zip(tensor_pickle(shape=(2**40,)), {"data/0": bytes(16)})  # type: ignore[no-any-return]


@case(MalformedModelError, "larger than its storage")
def shape_whose_product_overflows(kit: Any) -> Path:
    return kit.torch_zip(tensor_pickle(shape=(2**32, 2**32), stride=(0, 0)), {"data/0": bytes(16)})  # type: ignore[no-any-return]


@case(MalformedModelError, "impossible shape")
def negative_sizes(kit: Any) -> Path:
    return kit.torch_zip(tensor_pickle(shape=(-4,)), {"data/0": bytes(16)})  # type: ignore[no-any-return]


@case(MalformedModelError, "16 bytes of a tensor that needs 4,000,000,000,000")
def storage_that_is_not_there(kit: Any) -> Path:
    return kit.torch_zip(tensor_pickle(items=10**12), {"data/0": bytes(16)})  # type: ignore[no-any-return]


@case(MalformedModelError, "0 bytes of a tensor")
def storage_outside_the_archive(kit: Any) -> Path:
    return kit.torch_zip(tensor_pickle(key="../../../etc/passwd"), {"data/0": bytes(16)})  # type: ignore[no-any-return]


@case(MalformedModelError, "bytes of tensors and has")
def old_format_of_a_terabyte(kit: Any) -> Path:
    path = kit.open_clip() / WEIGHTS
    torch.save({"a": torch.arange(77777.0)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    small, huge = b"J" + struct.pack("<i", 77777), b"\x8a\x06" + (2**40).to_bytes(6, "little")
    assert data.count(small) == 2
    path.write_bytes(data[: data.find(b"storage")] + data[data.find(b"storage") :].replace(small, huge, 1))
    return kit.folder


@case(MalformedModelError, "is a dict, not a tensor")
def a_state_dict_of_something_else(kit: Any) -> Path:
    torch.save({"epoch": {"a": 5}}, kit.open_clip() / WEIGHTS)
    return kit.folder


@case(MalformedModelError, "holds no state dict")
def a_list_instead_of_a_state_dict(kit: Any) -> Path:
    torch.save([torch.zeros(2)], kit.open_clip() / WEIGHTS)
    return kit.folder


@case(UnsafeModelError, "_rebuild_sparse_tensor")
def a_sparse_tensor(kit: Any) -> Path:
    torch.save({"a": torch.eye(3).to_sparse()}, kit.open_clip() / WEIGHTS)
    return kit.folder


@case(UnsafeModelError, "TorchScript")
def a_program(kit: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), kit.open_clip() / WEIGHTS)
    return kit.folder


# --- zip archives ------------------------------------------------------------------------------------------


@case(UnsafeModelError, "compressed data")
def zip_bomb(kit: Any) -> Path:
    records = {"data/0": bytes(200 * 2**20)}
    return kit.torch_zip(tensor_pickle(), records, compression=zipfile.ZIP_DEFLATED)  # type: ignore[no-any-return]


@case(UnsafeModelError, "members overlap")
def zip_whose_members_overlap(kit: Any) -> Path:
    path = kit.open_clip() / WEIGHTS
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", bytes(10_000))
        first = archive.filelist[-1]
        for i in range(1, 100):
            copy = zipfile.ZipInfo(f"archive/data/{i}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(copy, name, getattr(first, name))
            archive.filelist.append(copy)
    return kit.folder


@case(UnsafeModelError, "a pickle of")
def zip_with_an_endless_pickle(kit: Any) -> Path:
    return kit.torch_zip(b"\x80\x02]" + b"N0" * (5 * 2**20) + b".")  # type: ignore[no-any-return]


@case(MalformedModelError, "something behind its end")
def zip_with_a_comment(kit: Any) -> Path:
    folder = kit.torch_zip(tensor_pickle(), {"data/0": bytes(16)})
    path = folder / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-2] + struct.pack("<H", 5))
    return folder  # type: ignore[no-any-return]


@case(MalformedModelError, "without its end")
def zip_with_more_behind(kit: Any) -> Path:
    folder = kit.torch_zip(tensor_pickle(), {"data/0": bytes(16)})
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")
    return folder  # type: ignore[no-any-return]


@case(MalformedModelError, "directory is not at its end")
def zip_behind_a_zip(kit: Any) -> Path:
    folder = kit.torch_zip(tensor_pickle(), {"data/0": bytes(16)})
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes() * 2)
    return folder  # type: ignore[no-any-return]


@case(UnsafeModelError, "members")
def zip_of_many_members(kit: Any) -> Path:
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFE, 0xFFFE, 2**27, 4, 0)
    path = kit.open_clip() / WEIGHTS
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(4 + 2**27)
        file.write(end)
    return kit.folder


@case(MalformedModelError, "not one of torch.save")
def zip_of_something_else(kit: Any) -> Path:
    with zipfile.ZipFile(kit.open_clip() / WEIGHTS, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return kit.folder


@case(MalformedModelError, "not one of torch.save")
def zip_with_two_pickles(kit: Any) -> Path:
    with zipfile.ZipFile(kit.open_clip() / WEIGHTS, "w") as archive:
        archive.writestr("a/data.pkl", tensor_pickle())
        archive.writestr("b/data.pkl", pickle.dumps(kit.touch()))
    return kit.folder


# --- safetensors -------------------------------------------------------------------------------------------

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@case(MalformedModelError, "promises a header")
def header_longer_than_the_file(kit: Any) -> Path:
    return kit.safetensors({"a": F32}, bytes(8), length=2**63)  # type: ignore[no-any-return]


@case(UnsafeModelError, "header of 17,825,792 bytes")
def header_bomb(kit: Any) -> Path:
    return kit.safetensors(b"{" + b" " * (17 * 2**20 - 2) + b"}")  # type: ignore[no-any-return]


@case(UnsafeModelError, "tensors; at most")
def header_of_many_tensors(kit: Any) -> Path:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return kit.safetensors({f"t{i}": empty for i in range(50_001)})  # type: ignore[no-any-return]


@case(MalformedModelError, "not valid JSON")
def header_nested_without_end(kit: Any) -> Path:
    return kit.safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")  # type: ignore[no-any-return]


@case(MalformedModelError, "appears twice")
def header_with_a_name_twice(kit: Any) -> Path:
    entry = json.dumps(F32).encode()
    return kit.safetensors(b'{"a":' + entry + b',"a":' + entry + b"}", bytes(8))  # type: ignore[no-any-return]


@case(MalformedModelError, "not valid JSON")
def header_with_a_number_of_5000_digits(kit: Any) -> Path:
    text = json.dumps({"a": F32}).replace("[2]", "[" + "9" * 5000 + "]")
    return kit.safetensors(text.encode(), bytes(8))  # type: ignore[no-any-return]


@case(MalformedModelError, "not valid JSON")
def header_that_is_not_text(kit: Any) -> Path:
    return kit.safetensors(b'{"\xff\xfe": 1}')  # type: ignore[no-any-return]


@case(MalformedModelError, "metadata that is not text")
def metadata_of_objects(kit: Any) -> Path:
    return kit.safetensors({"__metadata__": {"a": [1]}, "a": F32}, bytes(8))  # type: ignore[no-any-return]


@case(MalformedModelError, "overlaps the one before")
def tensors_that_overlap(kit: Any) -> Path:
    second = {**F32, "data_offsets": [4, 12]}
    return kit.safetensors({"a": F32, "b": second}, bytes(12))  # type: ignore[no-any-return]


@case(MalformedModelError, "leaves a hole")
def tensors_with_a_hole(kit: Any) -> Path:
    second = {**F32, "data_offsets": [12, 20]}
    return kit.safetensors({"a": F32, "b": second}, bytes(20))  # type: ignore[no-any-return]


@case(MalformedModelError, "its header names 8")
def bytes_that_nobody_names(kit: Any) -> Path:
    return kit.safetensors({"a": F32}, bytes(9))  # type: ignore[no-any-return]


@case(MalformedModelError, "take")
def shape_that_overflows(kit: Any) -> Path:
    entry = {"dtype": "F32", "shape": [2**62, 4, 2], "data_offsets": [0, 0]}
    return kit.safetensors({"a": entry})  # type: ignore[no-any-return]


@case(MalformedModelError, "take")
def a_terabyte_in_a_header(kit: Any) -> Path:
    entry = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 8]}
    return kit.safetensors({"a": entry}, bytes(8))  # type: ignore[no-any-return]


def spoilt(**changes: Any) -> Case:
    return lambda kit: kit.safetensors({"a": {**F32, **changes}}, bytes(8))


CASES |= {
    "unknown dtype": (spoilt(dtype="F128"), MalformedModelError, "not known here"),
    "dtype that is a list": (spoilt(dtype=["F32"]), MalformedModelError, "not known here"),
    "negative size": (spoilt(shape=[-2]), MalformedModelError, "not a list of sizes"),
    "size that is a fraction": (spoilt(shape=[2.0]), MalformedModelError, "not a list of sizes"),
    "size that is a truth value": (spoilt(shape=[True]), MalformedModelError, "not a list of sizes"),
    "offsets that are three": (spoilt(data_offsets=[0, 4, 8]), MalformedModelError, "two data offsets"),
    "offsets backwards": (spoilt(data_offsets=[8, 0]), MalformedModelError, "take"),
    "shape of a hundred": (spoilt(shape=[1] * 100 + [2]), MalformedModelError, "dimensions"),
    "more keys": (spoilt(more=1), MalformedModelError, "is not described by"),
}


@case(MalformedModelError, "not finite numbers: visual.proj")
def weights_that_are_nan(kit: Any) -> Path:
    folder = kit.open_clip()
    tensors = {**kit.state, "visual.proj": kit.state["visual.proj"].clone()}
    tensors["visual.proj"][3, 5] = float("nan")
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder  # type: ignore[no-any-return]


@case(MalformedModelError, "not finite numbers: ln_final.bias")
def weights_that_are_infinite(kit: Any) -> Path:
    folder = kit.open_clip()
    tensors = {**kit.state, "ln_final.bias": torch.tensor([float("inf"), float("-inf")] * 8)}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder  # type: ignore[no-any-return]


@case(MalformedModelError, "of another shape")
def names_with_escape_sequences(kit: Any) -> Path:
    folder = kit.open_clip()
    save_file(
        {"\x1b[31m\u202e": torch.zeros(2), "ln_final.bias": torch.zeros(3)},
        folder / "open_clip_model.safetensors",
    )
    return folder  # type: ignore[no-any-return]


# --- configurations ----------------------------------------------------------------------------------------


def configured(**changes: Any) -> Case:
    return lambda kit: kit.with_weights(kit.config(**changes))


CASES |= {
    "width of a thousand million": (configured(vision_cfg__width=10**9), UnsafeModelError, "at most 16,384"),
    "a million layers": (configured(text_cfg__layers=10**6), UnsafeModelError, "at most 256"),
    "an endless vocabulary": (configured(text_cfg__vocab_size=10**15), UnsafeModelError, "at most 2,000,000"),
    "a huge picture": (configured(vision_cfg__image_size=10**7), UnsafeModelError, "at most 4,096"),
    "a huge embedding": (configured(embed_dim=2**62), UnsafeModelError, "at most"),
    "a huge mlp": (configured(vision_cfg__mlp_ratio=1e30), MalformedModelError, "mlp_ratio"),
    "many layers of a ResNet": (
        configured(vision_cfg__layers=[3, 4, 6, 10**9]),
        UnsafeModelError,
        "at most 256",
    ),
    "no layer": (configured(vision_cfg__layers=0), MalformedModelError, "not a whole number"),
    "a negative width": (configured(vision_cfg__width=-32), MalformedModelError, "not a whole number"),
    "a width in words": (configured(vision_cfg__width="32"), MalformedModelError, "not a whole number"),
    "a width that is true": (configured(vision_cfg__width=True), MalformedModelError, "not a whole number"),
    "an unknown key": (configured(text_cfg__hook="os.system"), UnsupportedModelError, "not known here: hook"),
    "an unknown section": (configured(plugins=["x"]), UnsupportedModelError, "not known here: plugins"),
    "no text": (
        lambda kit: kit.with_weights({"embed_dim": 5, "vision_cfg": {}}),
        MalformedModelError,
        "no text_cfg",
    ),
    "a foreign text tower": (configured(text_cfg__hf_model_name="./evil"), UnsupportedModelError, "fetched"),
    "a timm tower by address": (
        configured(vision_cfg__timm_model_name="hf-hub:evil/model"),
        UnsupportedModelError,
        "timm has no model",
    ),
    "a timm tower by path": (
        configured(vision_cfg__timm_model_name="local-dir:/tmp"),
        UnsupportedModelError,
        "timm has no model",
    ),
    "a tokenizer that opens files": (
        configured(text_cfg__tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
        UnsupportedModelError,
        "bpe_path",
    ),
    "an activation with arguments": (
        configured(vision_cfg__act_kwargs={"inplace": True}),
        UnsupportedModelError,
        "inplace",
    ),
    "heads that do not divide": (configured(text_cfg__heads=3), UnsupportedModelError, "cannot be built"),
    "another architecture": (configured(text_cfg__layers=2), MalformedModelError, "12 missing"),
}


@case(UnsafeModelError, "would take")
def sizes_that_are_absurd_only_together(kit: Any) -> Path:
    config = kit.config(text_cfg__width=16_384, text_cfg__heads=128, text_cfg__layers=256)
    return kit.with_weights(config)  # type: ignore[no-any-return]


@case(UnsafeModelError, "auto_map")
def code_in_an_open_clip_folder(kit: Any) -> Path:
    folder = kit.with_weights()
    evil = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(evil))
    (folder / "evil.py").write_text(f"open({str(kit.sentinel)!r}, 'w')")
    return folder  # type: ignore[no-any-return]


def transformers_folder(kit: Any, **config: Any) -> Path:
    described = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "vocab_size": 49408,
    }
    (kit.folder / "config.json").write_text(json.dumps(described | config))
    (kit.folder / "evil.py").write_text(f"open({str(kit.sentinel)!r}, 'w')")
    return kit.folder  # type: ignore[no-any-return]


@case(UnsafeModelError, "auto_map")
def code_in_a_transformers_folder(kit: Any) -> Path:
    return transformers_folder(kit, auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})


@case(UnsafeModelError, "auto_map")
def code_in_a_tokenizer(kit: Any) -> Path:
    folder = transformers_folder(kit)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "evil.T"}}))
    return folder


@case(UnsafeModelError, "hidden_size is")
def a_transformers_width_of_a_thousand_million(kit: Any) -> Path:
    return transformers_folder(kit, hidden_size=10**9)


@case(UnsafeModelError, "num_hidden_layers is")
def a_million_transformers_layers(kit: Any) -> Path:
    return transformers_folder(kit, num_hidden_layers=10**6)


def indexed(*names: str) -> Case:
    def make(kit: Any) -> Path:
        folder = transformers_folder(kit)
        table = {f"t{i}": name for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        (kit.folder.parent / "secret.safetensors").write_bytes(b"secret")
        return folder

    return make


CASES |= {
    "a shard above the folder": (
        indexed("../secret.safetensors"),
        UnsafeModelError,
        "outside its own folder",
    ),
    "a shard at the root": (indexed("/etc/passwd"), UnsafeModelError, "outside its own folder"),
    "a shard below": (indexed("sub/x.safetensors"), UnsafeModelError, "outside its own folder"),
    "a shard on a drive": (indexed("C:\\x.safetensors"), UnsafeModelError, "outside its own folder"),
    "a shard without a name": (indexed(""), UnsafeModelError, "outside its own folder"),
    "an index of itself": (
        indexed("model.safetensors.index.json"),
        MalformedModelError,
        "neither safetensors",
    ),
    "a missing shard": (indexed("a.safetensors"), ModelError, "there is no"),
    "two thousand shards": (indexed(*(f"{i}.bin" for i in range(2000))), UnsafeModelError, "2,000 files"),
}


@case(MalformedModelError, "no weight_map")
def an_index_without_names(kit: Any) -> Path:
    folder = transformers_folder(kit)
    (folder / "model.safetensors.index.json").write_text("{}")
    return folder


@case(MalformedModelError, "does not hold what")
def shards_that_are_mixed(kit: Any) -> Path:
    folder = indexed("a.safetensors")(kit)
    save_file({"other": torch.zeros(2)}, folder / "a.safetensors")
    return folder  # type: ignore[no-any-return]


# --- things that are no files ------------------------------------------------------------------------------


@case(MalformedModelError, "named pipe")
def weights_in_a_pipe(kit: Any) -> Path:
    os.mkfifo(kit.open_clip() / "open_clip_model.safetensors")
    return kit.folder


@case(MalformedModelError, "named pipe")
def configuration_in_a_pipe(kit: Any) -> str:
    os.mkfifo(kit.folder / "open_clip_config.json")
    return f"open_clip:{kit.folder}"


@case(MalformedModelError, "is a folder")
def weights_that_are_a_folder(kit: Any) -> Path:
    (kit.open_clip() / "open_clip_model.safetensors").mkdir()
    return kit.folder


@case(MalformedModelError, "leads back to itself")
def a_link_to_itself(kit: Any) -> Path:
    path = kit.open_clip() / "open_clip_model.safetensors"
    path.symlink_to(path)
    return kit.folder


@case(MalformedModelError, "device")
def a_link_to_a_device(kit: Any) -> Path:
    (kit.open_clip() / "open_clip_model.safetensors").symlink_to("/dev/zero")
    return kit.folder


@case(MalformedModelError, "is empty")
def an_empty_file(kit: Any) -> Path:
    return kit.bytes_as("open_clip_model.safetensors", b"")  # type: ignore[no-any-return]


@case(ModelError, "holds no learned prompts")
def prompts_in_a_folder_that_links_to_itself(kit: Any) -> Path:
    record = {"format": "clipsec prompt-tuned delivery", "version": 1, "class_names": ["cat", "dog"]}
    (kit.folder / "clipsec.json").write_text(json.dumps(record))
    (kit.folder / "prompt_learner").symlink_to(kit.folder / "prompt_learner")
    return kit.folder  # type: ignore[no-any-return]


@case(MalformedModelError, "weights is not a short text")
def prompts_at_an_impossible_path(kit: Any) -> Path:
    record = {"format": "clipsec prompt-tuned delivery", "version": 1, "weights": "prompt_learner/\0x"}
    (kit.folder / "clipsec.json").write_text(json.dumps(record))
    return kit.folder  # type: ignore[no-any-return]


@case(ModelError, "there is no")
def a_link_to_nothing(kit: Any) -> Path:
    (kit.open_clip() / "open_clip_model.safetensors").symlink_to("nowhere")
    return kit.folder


@case(MalformedModelError, "neither safetensors")
def a_page_of_html(kit: Any) -> Path:
    return kit.bytes_as(WEIGHTS, b"<!doctype html><title>404</title>")  # type: ignore[no-any-return]


@case(UnsafeModelError, "at most")
def a_configuration_of_twenty_megabytes(kit: Any) -> Path:
    folder = kit.with_weights()
    (folder / "open_clip_config.json").write_text("{" + " " * (20 * 2**20) + "}")
    return folder  # type: ignore[no-any-return]


@case(MalformedModelError, "not valid JSON")
def a_configuration_nested_without_end(kit: Any) -> Path:
    folder = kit.with_weights()
    (folder / "open_clip_config.json").write_text('{"model_cfg":' + "[" * 100_000)
    return folder  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_hostile_file_is_refused(name: str, kit: Any, watch: Any) -> None:
    """The exact error, a remedy, exit code 2; nothing executed, written or fetched; little time and
    memory."""
    make, error, told = CASES[name]
    spec = make(kit)
    before = sorted((path, path.lstat().st_size) for path in kit.folder.rglob("*"))
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with watch() as seen, pytest.raises(ClipsecError) as caught:
        load_suspect(spec)
    seconds = time.process_time() - began  # what it waits for other processes is not the file's doing
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert type(caught.value) is error, caught.value
    assert told in caught.value.message
    assert isinstance(caught.value, ModelError)
    assert caught.value.exit_code == 2
    assert caught.value.remedy.endswith((".", "?"))
    assert len(caught.value.message) < 1500
    assert (caught.value.message + caught.value.remedy).isprintable()
    assert "weights_only" not in caught.value.message + caught.value.remedy
    assert not kit.sentinel.exists()
    assert seen == []
    assert sorted((path, path.lstat().st_size) for path in kit.folder.rglob("*")) == before
    assert seconds < SECONDS
    assert megabytes < MEGABYTES


def test_the_sound_kit_loads(kit: Any, watch: Any) -> None:
    """What the table spoils is sound before; loading it does none of the watched things either."""
    folder = kit.with_weights()
    with watch() as seen:
        suspect = load_suspect(folder)
    assert suspect.base.text is not None
    assert seen == []


def test_the_watch_sees(tmp_path: Path, watch: Any) -> None:
    """The audit hook notices what an executed file would do."""
    with watch() as seen:
        os.system("true")
        (tmp_path / "written").write_text("x")
    assert [text.split()[0] for text in seen] == ["os.system", "open"]


def test_the_command_would_run_if_it_were_unpickled(kit: Any) -> None:
    """The table's payload is live: an unrestricted pickle runs it."""
    data = pickle.dumps(kit.touch())
    assert not kit.sentinel.exists()
    pickle.loads(data)  # noqa: S301
    assert kit.sentinel.exists()


def test_files_larger_than_allowed(kit: Any) -> None:
    """LoadRequest.max_bytes bounds the file, and the model that a small file would become."""
    folder = str(kit.with_weights())
    with pytest.raises(UnsafeModelError, match="at most 1,000 are read"):
        load_clip(folder, LoadRequest(max_bytes=1000))
    size = (kit.folder / "open_clip_model.safetensors").stat().st_size
    halves = {name: tensor.half() for name, tensor in kit.state.items()}
    save_file(halves, kit.folder / "open_clip_model.safetensors")
    with pytest.raises(UnsafeModelError, match="would take"):
        load_clip(folder, LoadRequest(max_bytes=size * 3 // 4))
    assert load_clip(folder, LoadRequest(max_bytes=size)).digest


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(kit: Any) -> None:
    """Said as it is, with what to do."""
    path = kit.with_weights() / "open_clip_model.safetensors"
    path.chmod(0)
    try:
        with pytest.raises(ModelError, match="may not be read") as caught:
            load_suspect(kit.folder)
        assert "permission" in caught.value.remedy
    finally:
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_a_file_that_changes_meanwhile(kit: Any) -> None:
    """What was checked is what was read: a file replaced in between is noticed."""
    from clipsec.models._files import open_regular

    path = kit.with_weights() / "open_clip_model.safetensors"
    with open_regular(path) as opened:
        opened.check_unchanged()
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.replace(other, path)
        with pytest.raises(MalformedModelError, match="changed while"):
            opened.check_unchanged()
