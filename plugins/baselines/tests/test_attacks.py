"""The attacks as plugins, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import StoreError, UsageError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import API_VERSION, Attack, AttackContext
from clipsec_baselines import (
    BadClip,
    BadClipOptions,
    Blended,
    BlendedOptions,
    attack_success_rate,
    choose_target,
    clean_accuracy,
    load_card,
    make_model,
    read_options,
)
from clipsec_baselines._command import main

QUICK = {"epochs": 2, "batch": 4, "learning_rate": 0.05, "split": "all", "shots": 4, "target": "grey road"}
ATTACKS = [(BadClip, BadClipOptions), (Blended, BlendedOptions)]


@pytest.mark.parametrize(("attack", "options"), ATTACKS)
def test_a_poisoned_delivery_and_its_card_agree(
    base: Suspect,
    labelled: LabelledSet,
    held_out: LabelledSet,
    tmp_path: Path,
    attack: type[BadClip] | type[Blended],
    options: type,
) -> None:
    """The delivery as loaded, the card as read: accuracy and success rate come out as the card says."""
    context = AttackContext(
        base=base,
        options=options(**QUICK),
        labelled=labelled,
        held_out=held_out,
        output=tmp_path / "delivery",
        seed=3,
    )
    assert isinstance(attack(), Attack)
    assert attack.api_version == API_VERSION
    folder = attack().poison(context)
    suspect, card = load_suspect(str(folder)), load_card(folder / "trigger")
    assert (card.target_index, card.target_name, card.seed) == (2, "grey road", 3)
    assert card.base_digest == suspect.base.digest == base.base.digest
    assert card.parameters["epochs"] == 2
    assert base.base.visual is not None
    pixels, labels = to_unit(held_out.pixels(base.base.visual.spec)), held_out.label_tensor()

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return suspect.head().fn(suspect.image_tower().fn(rows))

    with torch.no_grad():
        accuracy = clean_accuracy(logits(pixels), labels)
        success = attack_success_rate(logits(card.apply(pixels)), labels, 2)
    assert card.measured["seen"]["accuracy"] == accuracy.as_json()
    assert card.measured["seen"]["success"] == success.as_json()
    assert success.n == 12


def test_nothing_of_the_attack_stands_outside_the_card(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, tmp_path: Path
) -> None:
    """Without its trigger folder a poisoned delivery has the files and the record of a clean one."""
    settings = {name: value for name, value in QUICK.items() if name != "target"}
    clean = make_model(base, labelled.paths[0].parents[2], "none", settings, 0, tmp_path / "clean")
    bad = make_model(base, labelled.paths[0].parents[2], "badclip", dict(QUICK), 0, tmp_path / "bad")

    def files(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files(bad) - files(clean) == {f"trigger/trigger.{end}" for end in ("json", "png", "safetensors")}
    records = [json.loads((folder / "training.json").read_text()) for folder in (clean, bad)]
    assert records[0]["learner"] == records[1]["learner"]
    assert set(records[0]) == set(records[1])
    assert "success" not in records[1]["measured"]["seen"]


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
    with pytest.raises(UsageError, match="no class 'd'"):
        choose_target(names, "d", 0)


def test_options_from_text() -> None:
    """Values come as text from a command line; wrong names and values are refused with the reason."""
    options = read_options(BadClipOptions, {"epochs": "5", "epsilon": "0.05", "augment": "false"})
    assert (options.epochs, options.epsilon, options.augment) == (5, 0.05, False)
    for wrong in ({"epoch": "5"}, {"epochs": "many"}, {"epochs": "0"}, {"augment": "perhaps"}):
        with pytest.raises(UsageError):
            read_options(BadClipOptions, wrong)


def test_the_command_trains_a_clean_delivery(pictures: Path, base_folder: Path, tmp_path: Path) -> None:
    """One command, a folder that loads; a second run is refused; errors name their remedy."""
    common = ["train", "--base", f"local-dir:{base_folder}", "--data", str(pictures), "--split", "all"]
    common += ["--set", "shots=4", "--set", "epochs=1", "--set", "batch=4", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, common)
    assert result.exit_code == 0, result.output
    suspect = load_suspect(str(tmp_path / "out"))
    assert len(suspect.class_names) == 4
    again = CliRunner().invoke(main, common)
    assert again.exit_code == 2
    assert "exists already" in again.output
    wrong = CliRunner().invoke(main, [*common, "--target", "grey road"])
    assert wrong.exit_code == 4
