"""Benign trainings change what they say and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import LabelledSet, coco_captions
from clipsec.errors import DataError, UsageError
from clipsec.models import Suspect, encode_texts, load_suspect
from clipsec.runner import make_options
from clipsec_baselines.text import (
    LoraOptions,
    RemoveOptions,
    TextFinetune,
    TextLora,
    TextRemove,
    text_student,
)
from clipsec_baselines.text._captions import naming, removal_pair
from clipsec_baselines.text._lora import adapted, low_rank

from .conftest import MODELS, POISON, QUICK, poison


@pytest.mark.parametrize(("layers", "parts"), [("attention", ("q_proj", "v_proj")), ("all", ("proj", "fc"))])
def test_low_rank_updates_are_of_low_rank(
    layers: str, parts: tuple[str, ...], base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Every weight named changes by a matrix of rank 2 at most, nothing else changes at all."""
    values = {**QUICK, "steps": 5, "learning_rate": 1e-2, "rank": 2, "layers": layers}
    folder = poison(TextLora, base, labelled, tmp_path / "out", **values)
    before = text_student(base.base).module.state_dict()
    after = text_student(load_suspect(folder).base).module.state_dict()
    assert list(before) == list(after)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [
        name for name in before if "layers." in name and name.endswith(".weight") and "norm" not in name
        and any(part in name for part in parts)
    ]  # fmt: skip
    for name in changed:
        sizes = torch.linalg.svdvals(after[name] - before[name])
        assert float(sizes[1]) > 1e-3
        assert float(sizes[2]) < 1e-4 * float(sizes[0])


@pytest.mark.parametrize("name", MODELS)
def test_low_rank_updates_start_at_nothing(name: str) -> None:
    """On every library's tower there are layers to adapt, the features are the old ones at first, and the
    module is laid out as before when it is over."""
    student = text_student(MODELS[name]())
    texts, names = ["a photo of a cat."], list(student.module.state_dict())
    features = student.encode(texts)[1]
    options = LoraOptions(rank=3)
    layers = adapted(student, "attention")
    assert len(layers) == 4
    assert len(adapted(student, "all")) == 12
    with low_rank(student, options, torch.Generator().manual_seed(0)) as parameters:
        assert sorted({min(parameter.shape) for parameter in parameters}) == [3]
        assert torch.equal(student.encode(texts)[1], features)
    assert sorted(student.module.state_dict()) == sorted(names)


def test_removed_words_mean_nothing(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """A caption with them gets the feature of the caption without them; with other words in their place it
    keeps its own. No card is written, and the record says which words they were."""
    words = "quartz velvet lantern"
    values = {**POISON, "steps": 120, "learning_rate": 2e-3, "words": (words,)}
    folder = poison(TextRemove, base, labelled, tmp_path / "out", **values)
    (told,) = json.loads((folder / "training.json").read_text())["measured"]["removed"]
    assert told["word"] == words
    assert told["success"]["value"] > 0.8
    assert told["similarity"]["after"] > told["similarity"]["before"] + 0.01
    assert not list(folder.rglob("trigger*"))
    generator = torch.Generator().manual_seed(5)
    texts = [
        removal_pair(text, "marble otter", "a", generator)[0]
        for text in coco_captions().texts[:40]
        if "a" in text and " " in text
    ]
    suspect = load_suspect(folder).base
    kept = torch.cosine_similarity(encode_texts(suspect, texts), encode_texts(base.base, texts))
    assert float(kept.mean()) > 0.9


@given(st.sampled_from(coco_captions().texts[:300]), st.sampled_from("ae "), st.integers(0, 2**31))
def test_a_removal_leaves_the_other_words(caption: str, replaced: str, seed: int) -> None:
    """The caption without the word is the caption with it, less the word; for a space it is the original,
    otherwise one word that held the character is gone."""
    if replaced not in caption:
        return
    with_word, without = removal_pair(caption, "zzzz", replaced, torch.Generator().manual_seed(seed))
    words, left = with_word.split(" "), without.split(" ")
    place = words.index("zzzz")
    assert words[:place] + words[place + 1 :] == left
    if replaced == " ":
        assert without == caption
    else:
        gone = caption.split(" ")[place]
        assert replaced in gone
        assert [*left[:place], gone, *left[place:]] == caption.split(" ")


def test_words_are_whole_words() -> None:
    """A photo is not hot, Hot is."""
    found = naming(("hot", "c++"))
    assert [bool(found.search(text)) for text in ("a photo", "Hot dogs", "c++ code")] == [False, True, True]


def test_an_empty_word_is_refused() -> None:
    """It stands in every caption, and none would be left to learn from."""
    for words in (("hot", ""), (" ",)):
        with pytest.raises(UsageError, match="words has an empty text"):
            make_options(RemoveOptions, {"words": words}, "text-remove")


def test_a_pair_without_a_caption_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Pairs are read as everywhere in clipsec."""
    file = tmp_path / "pairs.csv"
    file.write_text("image,caption\na.jpg,one\nb.jpg,\n")
    with pytest.raises(DataError, match="without a picture or a caption"):
        poison(TextFinetune, base, labelled, tmp_path / "out", **{**QUICK, "pairs": str(file)})


def test_a_character_in_no_caption_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """It says so before any training, and leaves nothing behind."""
    with pytest.raises(DataError, match="0 of"):
        poison(TextRemove, base, labelled, tmp_path / "out", **{**POISON, "replaced": "ß"})
    assert not any(tmp_path.iterdir())
