"""Sequences that detectors of text towers leave are read as what they are, or refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clipsec.errors import DataError, StoreError
from clipsec.protocols import found_tokens
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict


def verdict(folder: Path, kind: str, content: bytes, *flagged: bool) -> Verdict:
    (folder / "file").write_bytes(content)
    artifact = Artifact("file", kind, hashlib.sha256(content).hexdigest())
    evidence = tuple(ClassEvidence(i, "a sequence", each, {}, 4) for i, each in enumerate(flagged))
    return Verdict(Outcome.FINDING, "found", target="a teapot", evidence=evidence, artifacts=(artifact,))


def row(**changes: object) -> dict[str, object]:
    return {"ids": [5, 6], "text": "velvet", "site": "start", **changes}


def test_flagged_sequences_are_read_in_their_order(tmp_path: Path) -> None:
    """Those of rows whose evidence is not flagged are left out."""
    rows = [row(), row(ids=[7], site="end"), row(ids=[8])]
    found = found_tokens(
        verdict(tmp_path, "sequences", json.dumps(rows).encode(), True, True, False), tmp_path
    )
    assert [(each.ids, each.site, len(each)) for each in found] == [((5, 6), "start", 2), ((7,), "end", 1)]
    assert {each.target for each in found} == {"a teapot"}


def test_vectors_are_read(tmp_path: Path) -> None:
    """Of the kind that AMDET leaves."""
    content = safetensors.torch.save({"vectors": torch.ones(2, 4), "feature": torch.ones(4)})
    (found,) = found_tokens(verdict(tmp_path, "feature", content), tmp_path)
    assert len(found) == 2
    assert torch.equal(found.vectors, torch.ones(2, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("sequences", b"not JSON"),
        ("sequences", b"{}"),
        ("sequences", json.dumps([row(ids=[])]).encode()),
        ("sequences", json.dumps([row(ids=[-1])]).encode()),
        ("sequences", json.dumps([row(ids=[True])]).encode()),
        ("sequences", json.dumps([row(ids=[1] * 65)]).encode()),
        ("sequences", json.dumps([row(site="middle")]).encode()),
        ("sequences", json.dumps(["text"]).encode()),
        ("feature", b"no tensors"),
        ("feature", safetensors.torch.save({"vectors": torch.ones(4)})),
        ("feature", safetensors.torch.save({"vectors": torch.full((1, 4), torch.nan)})),
        ("feature", safetensors.torch.save({"other": torch.ones(1, 4)})),
    ],
)
def test_what_holds_no_sequence_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    """One sentence, whatever is wrong with the file."""
    with pytest.raises(DataError, match="holds no sequence"):
        found_tokens(verdict(tmp_path, kind, content, True), tmp_path)


def test_a_file_that_was_changed_since_the_run_is_refused(tmp_path: Path) -> None:
    """The artifact's digest is part of the finding."""
    found = verdict(tmp_path, "sequences", json.dumps([row()]).encode(), True)
    (tmp_path / "file").write_text(json.dumps([row(ids=[9])]))
    with pytest.raises(StoreError, match="changed after the run"):
        found_tokens(found, tmp_path)
