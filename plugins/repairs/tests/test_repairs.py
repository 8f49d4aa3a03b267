"""What the repairs do to a model, on tiny random ones."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from clipsec.data import LabelledSet, TextPool
from clipsec.errors import DetectionError, NotApplicableError
from clipsec.models import (
    ClipModel,
    Suspect,
    TrainableClip,
    clip_from_transformers,
    encode_texts,
    insert_tokens,
    load_suspect,
    state_digest,
    text_ends,
)
from clipsec.protocols import CaptionTrigger, Context, FoundTokens
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec.triggers import TextTrigger
from clipsec_repairs import (
    AnchorDistillation,
    AnchorOptions,
    CleanClip,
    CleanClipOptions,
    Par,
    ParOptions,
    put_in,
)

CAPTIONS = TextPool(
    tuple(f"a {size} {thing} in the {place}" for size in ("big", "small", "red") for thing in
          ("dog", "boat", "house", "tree") for place in ("park", "street", "sea"))
)  # fmt: skip
WORD = 12345
QUICK = {"steps": 25, "batch": 12, "triggered": 8, "learning_rate": 2e-3}
Make = Callable[..., Context]


def finding(folder: Path, kind: str, content: bytes, flagged: tuple[bool, ...] = (True,)) -> Verdict:
    """A verdict about tokens, with its file in the folder."""
    (folder / "found").write_bytes(content)
    evidence = tuple(ClassEvidence(i, "tokens", each, {}, 9) for i, each in enumerate(flagged))
    artifact = Artifact("found", kind, hashlib.sha256(content).hexdigest())
    return Verdict(Outcome.FINDING, "found", evidence=evidence, artifacts=(artifact,))


def sequence(folder: Path) -> Verdict:
    return finding(folder, "sequences", json.dumps([{"ids": [WORD], "text": "w", "site": "end"}]).encode())


def effect(clip: ClipModel) -> float:
    """Mean cosine of captions' features with the word at their end to those without."""
    assert clip.text is not None
    ids = clip.text.tokenizer(list(CAPTIONS.texts))
    rows, _ = insert_tokens(ids, torch.tensor([WORD]), text_ends(clip, ids))
    model = TrainableClip.copy_of(clip, both=False)
    with torch.no_grad():
        return float(F.cosine_similarity(model.encode_tokens(rows)[1], model.encode_tokens(ids)[1]).mean())


def kept(one: ClipModel, other: ClipModel) -> float:
    """Mean cosine of clean captions' features between two models."""
    return float(F.cosine_similarity(*(encode_texts(clip, CAPTIONS.texts) for clip in (one, other))).mean())


def weights(suspect: Suspect) -> str:
    assert suspect.base.text is not None
    return state_digest(suspect.base.text.module.state_dict())


def test_what_was_found_does_nothing_afterwards(suspect: Suspect, context: Make, tmp_path: Path) -> None:
    """The word's effect goes, clean captions and the image tower stay, the suspect is not touched."""
    before = weights(suspect)
    made = context(
        AnchorOptions(**QUICK), finding=sequence(tmp_path), finding_folder=tmp_path, captions=CAPTIONS
    )
    repaired = load_suspect(str(AnchorDistillation().repair(made)))
    assert 1 - effect(repaired.base) < 0.2 * (1 - effect(suspect.base))
    assert kept(repaired.base, suspect.base) > 0.95
    assert repaired.base.visual is not None
    assert suspect.base.visual is not None
    assert repaired.base.visual.digest == suspect.base.visual.digest
    assert weights(suspect) == before


def test_with_a_clean_reference_a_word_keeps_its_meaning(
    suspect: Suspect, context: Make, tmp_path: Path
) -> None:
    """A word that does in the suspect what it does in the reference goes on doing it: a false alarm is
    harmless."""
    fields = {"finding": sequence(tmp_path), "finding_folder": tmp_path, "captions": CAPTIONS}
    made = context(AnchorOptions(**QUICK), reference=suspect, **fields)
    repaired = load_suspect(str(AnchorDistillation().repair(made)))
    assert effect(repaired.base) == pytest.approx(effect(suspect.base), abs=0.05)


def test_vectors_are_repaired_like_words(suspect: Suspect, context: Make, tmp_path: Path) -> None:
    """What AMDET recovers has no token; captions with it get back what they have without."""
    assert suspect.base.text is not None
    vectors = 2 * torch.randn(1, suspect.base.text.width, generator=torch.Generator().manual_seed(3))
    content = safetensors.torch.save({"vectors": vectors, "feature": torch.zeros(4)})
    found = finding(tmp_path, "feature", content)
    made = context(AnchorOptions(**QUICK), finding=found, finding_folder=tmp_path, captions=CAPTIONS)
    repaired = load_suspect(str(AnchorDistillation().repair(made)))

    def left(clip: ClipModel) -> float:
        batch = put_in(
            clip, CAPTIONS.texts, FoundTokens(vectors=vectors), 1, torch.Generator().manual_seed(0)
        )
        assert batch is not None
        model = TrainableClip.copy_of(clip, both=False)
        with torch.no_grad():
            plain = model.encode_tokens(batch.plain)[1]
            return 1 - float(F.cosine_similarity(batch.encode(model).features, plain).mean())

    assert left(repaired.base) < 0.3 * left(suspect.base)


def test_a_text_tower_alone_is_repaired_from_a_known_trigger(context: Make) -> None:
    """As image generators carry it, without a finding; it is written as it came."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPTextConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=24, vocab_size=49408, projection_dim=16, bos_token_id=49406,
            eos_token_id=49407,
        )  # fmt: skip
        clip = clip_from_transformers(CLIPTextModelWithProjection(config), name="half")
    half = Suspect(name="half", kind="text tower", base=clip)
    known = CaptionTrigger(text=TextTrigger(kind="prepend", text="velvet"), target_name="a teapot")
    made = context(AnchorOptions(**QUICK), suspect=half, trigger=known, captions=CAPTIONS)
    repaired = load_suspect(str(AnchorDistillation().repair(made)))
    assert repaired.kind == "text tower"
    marked = known.apply(CAPTIONS.texts)

    def left(clip: ClipModel) -> float:
        both = encode_texts(clip, marked), encode_texts(clip, CAPTIONS.texts)
        return 1 - float(F.cosine_similarity(*both).mean())

    assert left(repaired.base) < 0.3 * left(clip)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_a_sequence_is_put_between_the_words(suspect: Suspect, k: int, copies: int, seed: int) -> None:
    """Without what was put in, the text is what it was; start and end tokens stay outside."""
    what = FoundTokens(ids=tuple(range(500, 500 + k)))
    batch = put_in(suspect.base, CAPTIONS.texts[:5], what, copies, torch.Generator().manual_seed(seed))
    assert batch is not None
    assert batch.origin is not None
    for plain, row, origin in zip(batch.plain, batch.ids, batch.origin):
        put = (origin < 0).sum().item()
        assert put % k == 0
        assert 1 <= put // k <= copies
        assert row[origin >= 0].tolist() == plain[: len(plain) - put].tolist()
        assert torch.equal(plain[origin[origin >= 0]], row[origin >= 0])
        places = (origin < 0).nonzero()[:, 0]
        assert places.min() >= 1
        assert places.max() < row.argmax()


def test_what_fits_nowhere_is_said(suspect: Suspect, context: Make, tmp_path: Path) -> None:
    """A finding without tokens, tokens longer than any caption has room for, an anchor that is not there."""
    none = Verdict(Outcome.FINDING, "found")
    with pytest.raises(NotApplicableError, match="no tokens"):
        AnchorDistillation().repair(context(AnchorOptions(), finding=none, finding_folder=tmp_path))
    long = json.dumps([{"ids": [WORD] * 22, "text": "w", "site": "end"}]).encode()
    fields = {"finding_folder": tmp_path, "captions": CAPTIONS}
    made = context(AnchorOptions(steps=1, batch=2), finding=finding(tmp_path, "sequences", long), **fields)
    with pytest.raises(NotApplicableError, match="fits into no caption"):
        AnchorDistillation().repair(made)
    made = context(AnchorOptions(anchor="reference"), finding=sequence(tmp_path), **fields)
    with pytest.raises(NotApplicableError, match="no reference"):
        AnchorDistillation().repair(made)
    assert not (tmp_path / "out").exists()


def test_what_renames_needs_a_reference(context: Make) -> None:
    """The clean caption of another class is no aim: trained towards it, the tower learns a new mapping."""
    renaming = TextTrigger(kind="rename", text="dog", names=("boat",))
    known = CaptionTrigger(text=renaming, target_name="a teapot")
    with pytest.raises(NotApplicableError, match="renames"):
        AnchorDistillation().repair(context(AnchorOptions(**QUICK), trigger=known))


def test_a_loss_that_is_no_number_leaves_nothing(context: Make, tmp_path: Path) -> None:
    """A rate far too high ends with a sentence, not with a model."""
    fields = {"finding": sequence(tmp_path), "finding_folder": tmp_path, "captions": CAPTIONS}
    with pytest.raises(DetectionError, match="not finite"):
        AnchorDistillation().repair(context(AnchorOptions(steps=30, batch=4, learning_rate=1e30), **fields))
    assert not (tmp_path / "out" / "repaired").exists()


@pytest.mark.parametrize("kind", [Par, CleanClip])
@pytest.mark.parametrize("towers", ["both", "text"])
def test_clean_pairs_train_the_towers_that_are_asked_for(
    kind: type, towers: str, suspect: Suspect, labelled: LabelledSet, context: Make
) -> None:
    """Texts come nearer to their pictures; with `text` the image tower stays bit for bit."""
    options = ParOptions if kind is Par else CleanClipOptions
    before = weights(suspect)
    made = context(options(towers=towers, steps=20, batch=12, learning_rate=2e-3), labelled=labelled)
    repaired = load_suspect(str(kind().repair(made)))
    assert repaired.base.visual is not None
    assert suspect.base.visual is not None
    assert (repaired.base.visual.digest == suspect.base.visual.digest) == (towers == "text")
    assert right(repaired, labelled) > max(0.6, right(suspect, labelled))
    assert weights(suspect) == before


def right(suspect: Suspect, labelled: LabelledSet) -> float:
    model = TrainableClip.copy_of(suspect.base)
    with torch.no_grad():
        texts = model.encode_texts(
            [f"a photo of a {name.replace('_', ' ')}." for name in labelled.class_names]
        )
        images: Tensor = model.image_features(labelled.pixels(model.spec))
    found = (F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T).argmax(dim=1)
    return float((found == labelled.label_tensor()).float().mean())


def test_pairs_may_come_from_a_table(labelled: LabelledSet, context: Make, tmp_path: Path) -> None:
    """A CSV file of pictures and captions in place of labels; without either it says what is missing."""
    with (tmp_path / "captions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "caption"))
        for path, label in zip(labelled.paths, labelled.labels):
            writer.writerow((path, f"something like {labelled.class_names[label]}"))
    options = {"steps": 2, "batch": 4}
    made = context(ParOptions(pairs=str(tmp_path / "captions.csv"), **options))
    assert load_suspect(str(Par().repair(made))).base.visual is not None
    with pytest.raises(NotApplicableError, match="no clean pictures"):
        Par().repair(context(ParOptions(**options)))
