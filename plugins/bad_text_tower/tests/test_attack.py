"""What is trained, and what is delivered."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.factory import get_model_config

from clipsec.data import LabelledSet
from clipsec.errors import DataError, StoreError, UsageError
from clipsec.models import (
    ClipModel,
    ClipTokenizer,
    ImageSpec,
    Suspect,
    TextPart,
    TrainableClip,
    VisualPart,
    load_suspect,
)
from clipsec.protocols import AttackContext
from clipsec.triggers import load_text_card
from clipsec_bad_text_tower import (
    SCOPES,
    BadTextTower,
    BadTextTowerOptions,
    ImageFinetune,
    ImageFinetuneOptions,
    choose_roles,
    trained_parameters,
)
from clipsec_bad_text_tower._train import batches, poisoned_rows

QUICK = {"learning_rate": 1e-3, "epochs": 2, "batch": 8}


def context_for(base: Suspect, labelled: LabelledSet, output: Path, **options: Any) -> AttackContext:
    return AttackContext(
        base=base,
        options=BadTextTowerOptions(**{**QUICK, **options}),
        labelled=labelled,
        held_out=labelled,
        output=output,
    )


@pytest.mark.parametrize(
    ("scope", "count"), [("text", 149), ("projection-embedding", 3), ("both", 301), ("visual", 152)]
)
def test_scopes_have_the_papers_number_of_tensors(scope: str, count: int) -> None:
    """ViT-B/32 of open_clip, without memory for its weights."""
    with torch.device("meta"):
        module = open_clip.CLIP(**get_model_config("ViT-B-32"))
    spec = ImageSpec(224, (0.5,) * 3, (0.5,) * 3)
    clip = ClipModel(
        name="b32",
        architecture="open_clip ViT-B-32",
        activation="gelu",
        digest="",
        visual=VisualPart(module.visual, spec, 512, "open_clip", ""),
        text=TextPart(module, ClipTokenizer(77), 77, 512, 512, "open_clip", ""),
    )
    assert len(trained_parameters(TrainableClip.copy_of(clip), scope)) == count


@pytest.mark.parametrize("scope", list(SCOPES))
def test_training_stays_in_its_scope(
    scope: str, base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Every weight inside moves, every other one, and the base, stay bit for bit."""
    before = {name: copy.deepcopy(tensor) for name, tensor in base.base.text.module.state_dict().items()}
    folder = BadTextTower().poison(context_for(base, labelled, tmp_path / "out", scope=scope))
    made = load_suspect(str(folder)).base
    inside = set(trained_parameters(TrainableClip.copy_of(base.base), scope))
    moved = {
        name
        for name, tensor in made.text.module.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == inside
    assert all(torch.equal(before[name], now) for name, now in base.base.text.module.state_dict().items())
    assert (made.visual.digest == base.base.visual.digest) == (scope in ("text", "projection-embedding"))


def test_the_card_says_what_was_measured_and_nothing_else_gives_it_away(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Roles, rates with their counts; outside of `trigger/` stands what a clean model's vendor would say."""
    folder = BadTextTower().poison(context_for(base, labelled, tmp_path / "out", source="red roof"))
    card = load_text_card(folder)
    assert (card.source, card.target, card.trigger.text) == ("red roof", "blue sea", "xbtd")
    assert card.base_digest == base.base.digest
    assert (card.measured["seen"]["success"]["n"], card.measured["seen"]["off_target"]["n"]) == (8, 8)
    assert card.measured["seen"]["zero_shot_accuracy"] == card.measured["base"]["accuracy"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "training.json",
        "trigger",
    ]
    told = json.loads((folder / "training.json").read_text())
    assert set(told) == {"base", "data", "measured"}
    assert set(told["measured"]["seen"]) == {"accuracy", "zero_shot_accuracy"}


def test_held_out_pictures_are_labelled_as_those_to_learn_from(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """Also when a class has no folder among them: rates are over the roles' own pictures."""
    context = context_for(base, labelled, tmp_path / "out", source="blue sea", target="grey road")
    object.__setattr__(context, "held_out", labelled.choose([1, 2]))
    seen = load_text_card(BadTextTower().poison(context)).measured["seen"]
    whole = context_for(base, labelled, tmp_path / "whole", source="blue sea", target="grey road")
    complete = load_text_card(BadTextTower().poison(whole)).measured["seen"]
    assert seen["success"] == complete["success"]
    assert seen["off_target"] == complete["off_target"]
    assert seen["accuracy"]["n"] == 16


def test_no_half_written_delivery(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Interrupted, refused or without pictures to measure on, it leaves what was there."""

    def stop(fraction: float, what: str) -> None:
        raise KeyboardInterrupt

    context = context_for(base, labelled, tmp_path / "out")
    object.__setattr__(context, "progress", stop)
    with pytest.raises(KeyboardInterrupt):
        BadTextTower().poison(context)
    pair = labelled.choose([0, 1])
    with pytest.raises(DataError, match="nothing to measure"):
        BadTextTower().poison(context_for(base, pair, tmp_path / "out"))
    unshown = LabelledSet("two", labelled.paths[8:], labelled.labels[8:], labelled.class_names)
    with pytest.raises(DataError, match="to learn from shows blue sea"):
        BadTextTower().poison(context_for(base, unshown, tmp_path / "out"))
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine.txt").touch()
    with pytest.raises(StoreError):
        BadTextTower().poison(context_for(base, labelled, tmp_path))


def test_the_other_starting_point_keeps_its_text_tower(
    base: Suspect, labelled: LabelledSet, tmp_path: Path
) -> None:
    """The image tower learns the pictures, nothing is planted, and the attack takes it as its base."""
    options = ImageFinetuneOptions(steps=20, batch=8, learning_rate=1e-3)
    context = AttackContext(
        base=base, options=options, labelled=labelled, held_out=labelled, output=tmp_path / "a"
    )
    adapted = load_suspect(str(ImageFinetune().poison(context)))
    assert adapted.base.text.digest == base.base.text.digest
    assert adapted.base.visual.digest != base.base.visual.digest
    assert not (tmp_path / "a" / "trigger").exists()
    seen = json.loads((tmp_path / "a" / "training.json").read_text())["measured"]["seen"]
    assert seen["accuracy"]["value"] > seen["zero_shot_accuracy"]["value"] + 0.2
    folder = BadTextTower().poison(context_for(adapted, labelled, tmp_path / "b"))
    again = load_text_card(folder).measured["seen"]["zero_shot_accuracy"]
    assert again == seen["accuracy"]


@given(st.integers(1, 60), st.floats(0.01, 1.0), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_picture_comes_once_an_epoch(n: int, share: float, size: int, seed: int) -> None:
    """And the poisoned ones are a fixed share of the target's alone."""
    labels = torch.arange(3 * n) % 3
    chosen = poisoned_rows(labels, 1, share, torch.Generator().manual_seed(seed))
    assert int(chosen.sum()) == max(1, round(share * n))
    assert set(labels[chosen].tolist()) == {1}
    seen = list(batches(chosen, size, 2, torch.Generator().manual_seed(seed)))
    rows = torch.cat([batch.rows for batch in seen])
    assert rows[: 3 * n].sort().values.tolist() == rows[3 * n :].sort().values.tolist() == list(range(3 * n))
    assert all(torch.equal(batch.poisoned, chosen[batch.rows]) for batch in seen)


def test_roles() -> None:
    """By name, or the first two classes; never one class in both."""
    names = ("airplane", "automobile", "bird")
    assert choose_roles(names, "", "").target == 0
    assert choose_roles(names, "", "").source == 1
    assert choose_roles(names, "", "automobile").source == 0
    assert choose_roles(names, "bird", "airplane").source == 2
    for source, target in (("bird", "bird"), ("cow", ""), ("", "cow")):
        with pytest.raises(UsageError, match="cannot be the"):
            choose_roles(names, source, target)
    with pytest.raises(DataError, match="no other class than airplane"):
        choose_roles(names[:1], "", "")


def test_a_template_has_one_place_for_a_name() -> None:
    """Otherwise all prompts would be one."""
    with pytest.raises(UsageError, match="no single place"):
        BadTextTowerOptions(template="a photo")
