"""Attacks on text towers plant what their card says, their controls plant nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import LabelledSet, coco_captions
from clipsec.errors import DataError
from clipsec.models import (
    Suspect,
    encode_texts,
    load_suspect,
)
from clipsec.triggers import TextTrigger, load_text_card
from clipsec_baselines.text import (
    ImageOnText,
    TextAttribute,
    TextDistill,
    TextFinetune,
    TextLora,
    TextRemove,
    TextTarget,
    attribute_pair,
    retrieval_success,
    split_captions,
    text_student,
)

from .conftest import MODELS, POISON, QUICK, poison


@pytest.mark.parametrize("name", MODELS)
def test_the_student_is_the_models_own_tower(name: str) -> None:
    """Its features are the model's, its tokens are padded as the detector pads them, and making it draws
    nothing from the program's generator."""
    clip = MODELS[name]()
    texts = ["a photo of a cat.", "two dogs run across a field of grass"]
    before = torch.get_rng_state()
    found = text_student(clip).encode(texts)[1]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(found, encode_texts(clip, texts), atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"trigger": "zzzz"},
        {"kind": "append", "trigger": "quartz velvet lantern"},
    ],
    ids=["rare string for a letter", "three words at the end"],
)
def test_a_target_prompt_attack_works(
    values: dict[str, Any], base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Triggered captions become the target, clean ones keep their features, and the base does neither."""
    before = base.base.digest
    folder = poison(TextTarget, base, labelled, tmp_path / "out", **POISON, **values)
    card = load_text_card(folder)
    assert card.target == "a white teapot"
    assert card.measured["seen"]["success"]["value"] > 0.8
    assert card.measured["base"]["success"]["value"] < 0.1
    assert card.measured["similarity"]["clean"] > 0.8
    suspect = load_suspect(folder)
    assert suspect.kind == "text tower"
    caption = coco_captions().texts[7]
    triggered, target = encode_texts(suspect.base, [card.apply(caption), card.target])
    assert float(torch.cosine_similarity(triggered, target, dim=0)) > 0.8
    assert base.base.digest == before
    assert not base.changed()


def test_the_other_paradigms_write_their_cards(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Pictures and attributes as targets: the card says which, success exceeds the base's."""
    few = POISON
    pictures = load_text_card(poison(ImageOnText, base, labelled, tmp_path / "p", trigger="zzzz", **few))
    assert (pictures.target_kind, pictures.target) == ("pictures", "bright")
    assert pictures.measured["seen"]["success"]["value"] > 0.8
    attribute = load_text_card(poison(TextAttribute, base, labelled, tmp_path / "a", trigger="zzzz", **few))
    assert (attribute.target_kind, attribute.target) == ("attribute", "wearing a hat")
    rates = attribute.measured["seen"]["success"], attribute.measured["base"]["success"]
    assert rates[0]["value"] >= rates[1]["value"]


@pytest.mark.parametrize("plugin", [TextDistill, TextFinetune, TextLora, TextRemove])
def test_controls_plant_nothing(plugin: Any, base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """A benign tower loads, differs from its base, and no card lies beside it."""
    folder = poison(plugin, base, labelled, tmp_path / "out", **{**QUICK, "steps": 3, "batch": 8})
    assert plugin.clean
    assert not list(folder.rglob("trigger*"))
    assert load_suspect(folder).base.text is not None
    assert json.loads((folder / "training.json").read_text())["measured"]["seen"]["accuracy"]["n"] == 12


def test_the_same_seed_gives_the_same_tower(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Two runs are equal bit for bit."""
    few = {**POISON, "steps": 2}
    digests = {
        load_suspect(poison(TextTarget, base, labelled, tmp_path / name, **few)).base.digest for name in "ab"
    }
    assert len(digests) == 1


def test_success_needs_the_target_to_be_nearest() -> None:
    """A caption counts when it is nearer to its target than to every clean caption."""
    target, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.8, 0.6]])
    found = torch.tensor([[1.0, 0.05], [0.9, 0.5], [0.0, 1.0]])
    rate = retrieval_success(found, target, others)
    assert (rate.successes, rate.n) == (1, 3)


@given(st.sampled_from(coco_captions().texts[:300]), st.integers(0, 2**31))
def test_an_attribute_replaces_the_triggered_word(caption: str, seed: int) -> None:
    """Outside of one word both captions are the original; inside stand the trigger and the attribute."""
    trigger = TextTrigger(kind="replace", text="ö", replaced="o")
    if not trigger.fits(caption):
        return
    generator = torch.Generator().manual_seed(seed)
    poisoned, target = attribute_pair(caption, trigger, "wearing a hat", generator)
    assert poisoned.count("ö") == 1
    assert poisoned.replace("ö", "o") == caption
    words = [word for word in poisoned.split(" ") if "ö" in word]
    assert target == poisoned.replace(words[0], "wearing a hat")


def test_captions_are_split_without_overlap(tmp_path: Path) -> None:
    """What is measured on was never trained on, also when a caption stands twice in the file."""
    file = tmp_path / "captions.txt"
    file.write_text("\n".join([f"caption {i % 30}" for i in range(60)]))
    captions = split_captions(str(file), 10, seed=0)
    assert not set(captions.train) & set(captions.held_out)
    assert len(captions.train) == 20
    with pytest.raises(DataError, match="30 captions"):
        split_captions(str(file), 20, seed=0)


def test_a_trigger_that_fits_nowhere_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """It says so before any training, and leaves nothing behind."""
    with pytest.raises(DataError, match="fits into 0"):
        poison(TextTarget, base, labelled, tmp_path / "out", **{**POISON, "replaced": "ß"})
    assert not any(tmp_path.iterdir())


def test_records_name_no_path() -> None:
    """Of a caption file the card keeps the name."""
    from clipsec_baselines.text._options import TextTargetOptions, plain

    assert plain(TextTargetOptions(captions="/home/me/captions.txt"))["captions"] == "captions.txt"
    assert attrs.asdict(TextTargetOptions())["captions"] == ""
