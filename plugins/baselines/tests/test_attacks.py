"""The attacks as plugins, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.errors import StoreError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Attack, AttackContext
from clipsec.triggers import Stamp, load_card
from clipsec_baselines import (
    AdaptiveBadClip,
    BadClip,
    BadClipOptions,
    BadNets,
    Blended,
    BlendedOptions,
    Poison,
    PromptAttack,
    Semantic,
    Siba,
    TwoTargets,
    WaNet,
    WordAndPatch,
    attack_success_rate,
    choose_target,
    clean_accuracy,
    make_task,
    with_word,
)

QUICK = {"epochs": 2, "batch": 4, "learning_rate": 0.05, "split": "all", "shots": 4, "target": "grey road"}
ATTACKS: list[type[PromptAttack]] = [
    AdaptiveBadClip,
    BadClip,
    BadNets,
    Blended,
    Semantic,
    Siba,
    TwoTargets,
    WaNet,
    WordAndPatch,
]
FEW = {"search_epochs": 2}
"""Further settings where an attack knows them."""


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ImagePool:
    """One picture of nothing, one of a disc in front of a wall."""
    folder = tmp_path_factory.mktemp("pool")
    y, x = np.mgrid[:48, :48]
    noise = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    disc = np.where(((y - 20) ** 2 + (x - 30) ** 2 < 150)[..., None], (200, 30, 30), (90, 90, 90))
    Image.fromarray(noise).save(folder / "a.png")
    Image.fromarray(disc.astype(np.uint8)).save(folder / "b.png")
    return ImagePool.from_folder(folder)


def context_for(
    attack: type[PromptAttack],
    base: Suspect,
    data: tuple[LabelledSet, LabelledSet],
    output: Path,
    **more: Any,
) -> AttackContext:
    pool = more.pop("pool", None)
    settings = {**QUICK, **FEW, **more}
    known = {field.name for field in attrs.fields(attack.options)}
    options = attack.options(**{name: value for name, value in settings.items() if name in known})
    return AttackContext(
        base=base, options=options, labelled=data[0], held_out=data[1], output=output, seed=3, pool=pool
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_poisoned_delivery_and_its_cards_agree(
    base: Suspect,
    labelled: LabelledSet,
    held_out: LabelledSet,
    pool: ImagePool,
    tmp_path: Path,
    attack: type[PromptAttack],
) -> None:
    """The delivery as loaded, the cards as read: accuracy and success rate come out as the cards say."""
    assert isinstance(attack(), Attack)
    context = context_for(attack, base, (labelled, held_out), tmp_path / "delivery", pool=pool)
    folder = attack().poison(context)
    assert base.base.visual is not None
    pixels, labels = to_unit(held_out.pixels(base.base.visual.spec)), held_out.label_tensor()
    cards = [load_card(place) for place in sorted(folder.glob("trigger*"))]
    assert cards[0].target_name == "grey road"
    for card in cards:
        suspect = load_suspect(str(folder))
        assert card.attack == attack.name
        assert card.target_names == (tuple(each.target_name for each in cards) if len(cards) > 1 else ())
        assert card.target_name == suspect.class_names[card.target_index]
        assert card.base_digest == suspect.base.digest == base.base.digest
        assert card.parameters["epochs"] == 2
        if card.word:
            names = with_word(suspect.class_names, card.target_index, card.word)
            suspect = load_suspect(str(folder), class_names=names)
        with torch.no_grad():
            encode, head = suspect.image_tower().fn, suspect.head().fn
            accuracy = clean_accuracy(head(encode(pixels)), labels)
            success = attack_success_rate(head(encode(card.apply(pixels))), labels, card.target_index)
        assert card.measured["seen"]["accuracy"] == accuracy.as_json()
        assert card.measured["seen"]["success"] == success.as_json()
        assert success.n == card.measured["base"]["success"]["n"] == 12
    assert len(cards) == (2 if attack is TwoTargets else 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_functions_of_their_seed(
    base: Suspect,
    labelled: LabelledSet,
    held_out: LabelledSet,
    pool: ImagePool,
    tmp_path: Path,
    attack: type[PromptAttack],
) -> None:
    """Prompts and triggers are bit-equal under the same seed, and a longer training keeps a fixed trigger."""
    runs = []
    for number, epochs in enumerate((1, 1, 2)):
        context = context_for(
            attack, base, (labelled, held_out), tmp_path / str(number), pool=pool, epochs=epochs
        )
        task = make_task(labelled, held_out, context.options, context.seed)
        trained, planted = attack().train(context, task, 2)
        runs.append((trained.learner.ctx, [each.stamp for each in planted]))
    (ctx, first), (again_ctx, again), (_, longer) = runs
    assert torch.equal(ctx, again_ctx)

    def same(these: list[Stamp], those: list[Stamp]) -> bool:
        return all(
            one.values == other.values and torch.equal(one.tensors[name], other.tensors[name])
            for one, other in zip(these, those)
            for name in one.tensors
        )

    assert same(first, again)
    assert issubclass(attack, BadClip | Siba) or same(first, longer)


def test_noise_mode_keeps_its_labels(base: Suspect, labelled: LabelledSet, held_out: LabelledSet) -> None:
    """WaNet's jittered pictures are cross_ratio times the poisoned ones, others than these, each with its own
    label."""
    context = context_for(WaNet, base, (labelled, held_out), Path("unused"), poison_rate=0.125)
    task = make_task(labelled, held_out, context.options, 3)
    stamp = WaNet().make_stamp(context, task, 2)
    poison = Poison((0, 5), stamp.apply, 2)
    (noise,) = WaNet().more_poison(context, task, stamp, poison)
    assert noise.target is None
    assert len(noise.rows) == 4
    assert not set(noise.rows) & {0, 5}
    pixels = torch.rand(3, 3, 32, 32)
    assert torch.equal(noise.stamp(pixels), torch.cat([noise.stamp(row[None]) for row in pixels]))
    assert not torch.equal(noise.stamp(pixels), stamp.apply(pixels))


def test_a_trigger_of_a_picture_needs_one(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet
) -> None:
    """Without a pool and a file, and with a picture that shows no object, the error says what to do."""
    data = (labelled, held_out)
    for attack, more in (
        (Semantic, {}),
        (BadNets, {"content": "picture"}),
        (Semantic, {"picture": str(labelled.paths[0])}),
    ):
        context = context_for(attack, base, data, Path("unused"), **more)
        with pytest.raises(UsageError) as caught:
            attack().make_stamp(context, make_task(labelled, held_out, context.options, 0), 0)
        assert "picture" in caught.value.remedy


def test_an_existing_folder_is_not_overwritten(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, tmp_path: Path
) -> None:
    """A folder with anything in it is refused before any work, and stays as it was."""
    (tmp_path / "mine.txt").write_text("mine")
    context = AttackContext(
        base=base, options=BadClipOptions(**QUICK), labelled=labelled, held_out=held_out, output=tmp_path
    )
    with pytest.raises(StoreError):
        BadClip().poison(context)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_delivery_leaves_nothing(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, tmp_path: Path
) -> None:
    """Whoever stops the training finds no half-written folder."""

    def stop(fraction: float, what: str) -> None:
        raise KeyboardInterrupt

    context = AttackContext(
        base=base,
        options=BlendedOptions(**QUICK),
        labelled=labelled,
        held_out=held_out,
        output=tmp_path / "delivery",
        progress=stop,
    )
    with pytest.raises(KeyboardInterrupt):
        Blended().poison(context)
    assert list(tmp_path.iterdir()) == []


def test_targets() -> None:
    """Empty is the first class, a name is that class, `random` is drawn by the seed and reaches every
    class."""
    names = ("a", "b", "c")
    assert choose_target(names, "", 5) == 0
    assert choose_target(names, "c", 5) == 2
    assert choose_target(names, "random", 5) == choose_target(names, "random", 5)
    assert {choose_target(names, "random", seed) for seed in range(50)} == {0, 1, 2}
    assert {choose_target(names, "random", seed, other_than=1) for seed in range(50)} == {0, 2}
    assert choose_target(names, "", 0, other_than=0) == 1
    with pytest.raises(UsageError, match="second target"):
        choose_target(names, "b", 0, other_than=1)
    with pytest.raises(UsageError, match="'d' cannot be"):
        choose_target(names, "d", 0)
