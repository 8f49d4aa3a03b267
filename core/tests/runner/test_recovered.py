"""What a finding leaves to measure exposure with."""

from __future__ import annotations

import hashlib
import json

import attrs
import pytest

from clipsec.errors import UsageError
from clipsec.protocols import CaptionTrigger, FoundTokens
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec.runner import recovered_triggers
from clipsec.runner._expose_inputs import reference_of
from clipsec.runner._recovered import nearest_class, reads_back
from clipsec_testkit import build_toys


@pytest.fixture(scope="module")
def suspect():
    toys = build_toys()
    found = toys["textual"].fresh()
    found.class_names = toys.labelled.class_names
    return found


def ids_of(suspect, text):
    row = suspect.base.text.tokenizer([text])[0]
    return tuple(row[1 : int(row.argmax())].tolist())


def verdict_of(folder, rows, target):
    content = json.dumps(rows).encode()
    (folder / "sequences.json").write_bytes(content)
    artifact = Artifact("sequences.json", "sequences", hashlib.sha256(content).hexdigest())
    evidence = tuple(
        ClassEvidence(index=i, name=str(i), flagged=True, measures={}, n=1) for i in range(len(rows))
    )
    return Verdict(
        outcome=Outcome.FINDING, summary="found", target=target, evidence=evidence, artifacts=(artifact,)
    )


def test_a_text_reads_back_only_as_its_own_tokens(suspect):
    """A piece of a word is another token than the same letters as a word."""
    assert reads_back(suspect.base, FoundTokens(ids=ids_of(suspect, "velvet"), text="velvet"))
    assert not reads_back(suspect.base, FoundTokens(ids=(1, 2), text="velvet"))


def test_the_strongest_sequence_that_can_be_written_is_measured(suspect, tmp_path):
    """Its place in captions is kept, and its class is the one nearest to the caption that it leads to."""
    name = suspect.class_names[2]
    rows = [
        {"ids": [1, 2], "text": "velvet", "site": "start"},
        {"ids": list(ids_of(suspect, "lantern")), "text": "lantern", "site": "end"},
    ]
    (found,) = recovered_triggers(verdict_of(tmp_path, rows, f"a photo of a {name}."), tmp_path, suspect)
    assert isinstance(found, CaptionTrigger)
    assert (found.text.kind, found.text.text, found.target_name) == ("append", "lantern", name)


def test_pieces_that_cannot_be_written_are_not_measured(suspect, tmp_path):
    """Other tokens would be measured than were found."""
    rows = [{"ids": [1, 2], "text": "velvet", "site": "start"}]
    assert recovered_triggers(verdict_of(tmp_path, rows, "x"), tmp_path, suspect) == ()


def test_every_class_prompt_is_nearest_to_its_own_class(suspect):
    for name in suspect.class_names:
        assert nearest_class(suspect, f"a photo of a {name}.") == name


def test_a_finding_without_either_leaves_none(suspect, tmp_path):
    verdict = attrs.evolve(verdict_of(tmp_path, [], "x"), artifacts=())
    assert recovered_triggers(verdict, tmp_path, suspect) == ()


def test_a_reference_for_other_pictures_is_refused_at_once(suspect):
    """Not in an error in every cell."""
    other = build_toys()["clean"].fresh()
    spec = attrs.evolve(other.base.visual.spec, size=other.base.visual.spec.size * 2)
    other.base = attrs.evolve(other.base, visual=attrs.evolve(other.base.visual, spec=spec))
    with pytest.raises(UsageError, match="takes pictures of"):
        reference_of(suspect, other)
