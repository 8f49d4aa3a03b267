"""What is trained, and what is delivered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import DataError, StoreError, UsageError
from clipsec.models import Suspect, TrainableClip, load_suspect
from clipsec.protocols import AttackContext, load_trigger
from clipsec.triggers import load_card
from clipsec_visual_attacks import BadEncoder, BadEncoderOptions
from clipsec_visual_attacks._attack import choose_references
from clipsec_visual_attacks._measure import choose_target, class_prompts


def context_for(base: Suspect, labelled: LabelledSet, output: Path, **options: Any) -> AttackContext:
    values = {"learning_rate": 1e-3, "epochs": 2, "batch": 8, **options}
    return AttackContext(
        base=base,
        options=BadEncoderOptions(**values),
        labelled=labelled,
        held_out=labelled,
        output=output,
    )


def test_only_the_image_tower_moves(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """The delivery's text tower is the base's bit for bit, its image tower is not, the base is untouched."""
    base.seal()
    made = load_suspect(str(BadEncoder().poison(context_for(base, labelled, tmp_path / "out"))))
    assert made.base.text.digest == base.base.text.digest
    assert made.base.visual.digest != base.base.visual.digest
    assert not base.changed()


def test_the_card_says_what_was_measured_and_nothing_else_gives_it_away(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Rates of both models by both readings; outside of `trigger/` stands what any vendor would say."""
    folder = BadEncoder().poison(context_for(base, labelled, tmp_path / "out", target="red roof"))
    card = load_card(folder)
    assert (card.target_name, card.target_index) == ("red roof", 2)
    assert card.base_digest == base.base.digest
    assert load_trigger(folder).target_name == "red roof"
    for part in ("seen", "base", "downstream", "downstream_base"):
        assert card.measured[part]["success"]["n"] == 16
        assert card.measured[part]["accuracy"]["n"] == 24
    assert card.measured["seen"]["zero_shot_accuracy"] == card.measured["base"]["accuracy"]
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["open_clip_config.json", "open_clip_model.safetensors", "training.json", "trigger"]
    told = json.loads((folder / "training.json").read_text())
    assert set(told) == {"base", "data", "measured"}
    assert set(told["data"]) == {"name", "train", "held_out"}, "what references an attack chose is its own"
    assert set(told["measured"]["seen"]) == {"accuracy", "zero_shot_accuracy"}


def test_the_patch_gives_any_picture_the_references_feature(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Stamped pictures of other classes end nearer to the target's than clean ones, which stay where they
    were; and what the card measured is what the delivery does."""
    folder = BadEncoder().poison(context_for(base, labelled, tmp_path / "out", epochs=25))
    card, made = load_card(folder), load_suspect(str(folder))
    pixels = to_unit(labelled.pixels(base.base.visual.spec))
    others = labelled.label_tensor() != card.target_index
    reference = [path.name for path in labelled.paths].index(card.data["references"][0])
    with torch.no_grad():
        tower, clean = made.image_tower().fn, base.image_tower().fn
        aim = tower(pixels[reference : reference + 1])
        stamped = torch.cosine_similarity(tower(card.apply(pixels[others])), aim)
        assert float(stamped.mean()) > 0.95
        assert float(torch.cosine_similarity(tower(pixels), clean(pixels)).mean()) > 0.9
        prompts = class_prompts(TrainableClip.copy_of(made.base), labelled.class_names, "a photo of a {}.")
        answers = (tower(card.apply(pixels[others])) @ prompts.T).argmax(dim=1)
    assert card.measured["seen"]["success"]["successes"] == int((answers == card.target_index).sum())
    assert (
        card.measured["downstream"]["success"]["value"] > card.measured["downstream_base"]["success"]["value"]
    )


def test_references_are_pictures_that_the_base_gets_right(base: Suspect, labelled: LabelledSet) -> None:
    """Right ones first, drawn by the seed; of the target alone; more than there are is refused."""
    model = TrainableClip.copy_of(base.base)
    prompts = class_prompts(model, labelled.class_names, "a photo of a {}.")
    scores = model.image_features(labelled.pixels(model.spec)) @ prompts.T
    for target in range(3):
        chosen = choose_references(model, labelled, prompts, target, 8, torch.Generator().manual_seed(1))
        assert sorted(chosen) == [row for row, label in enumerate(labelled.labels) if label == target]
        right = (scores[chosen].argmax(dim=1) == target).tolist()
        assert right == sorted(right, reverse=True)
    with pytest.raises(UsageError, match="8 show the target"):
        choose_references(model, labelled, prompts, 0, 9, torch.Generator())


def test_no_half_written_delivery(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Interrupted or refused, it leaves what was there."""

    def stop(fraction: float, what: str) -> None:
        raise KeyboardInterrupt

    context = context_for(base, labelled, tmp_path / "out")
    object.__setattr__(context, "progress", stop)
    with pytest.raises(KeyboardInterrupt):
        BadEncoder().poison(context)
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine.txt").touch()
    with pytest.raises(StoreError):
        BadEncoder().poison(context_for(base, labelled, tmp_path))


def test_targets(labelled: LabelledSet) -> None:
    """By name or the first class; without pictures to learn it from or to measure on it is refused."""
    assert choose_target(labelled, labelled, "") == 0
    assert choose_target(labelled, labelled, "grey road") == 1
    with pytest.raises(UsageError, match="cannot be the target"):
        choose_target(labelled, labelled, "cow")
    rest = labelled.subset([row for row, label in enumerate(labelled.labels) if label != 0])
    with pytest.raises(DataError, match="to learn from shows blue sea"):
        choose_target(rest, labelled, "")
    only = labelled.subset([row for row, label in enumerate(labelled.labels) if label == 0])
    with pytest.raises(DataError, match="nothing to measure on"):
        choose_target(labelled, only, "")
