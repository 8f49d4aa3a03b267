"""`clipsec attack` with the attacks of this package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from clipsec.cli import main
from clipsec.models import load_suspect
from clipsec.triggers import load_card

QUICK = ("epochs=1", "batch=4", "learning_rate=0.05", "split=all", "shots=4")


def run(name: str, base: Path, data: Path, out: Path, *more: str) -> Result:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    command = ["attack", name, f"local-dir:{base}", "--data", str(data), "-o", str(out), *settings, *more]
    return CliRunner().invoke(main, command)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(
    pictures: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Result]]:
    """A clean and a poisoned delivery, each by one command."""
    out = tmp_path_factory.mktemp("made")
    target = ("--target", "grey road")
    return {
        "none": (out / "none", run("none", base_folder, pictures, out / "none")),
        "badnets": (
            out / "badnets",
            run("badnets", base_folder, pictures, out / "badnets", *target, "--set", "poison-rate=1/2"),
        ),
    }


def test_a_delivery_a_card_and_a_preview(made: dict[str, tuple[Path, Result]]) -> None:
    """The delivery loads, the options given as text arrived, the measured numbers are printed."""
    folder, result = made["badnets"]
    assert result.exit_code == 0, result.output
    suspect, card = load_suspect(str(folder)), load_card(folder)
    assert len(suspect.class_names) == 4
    assert (card.attack, card.target_name) == ("badnets", "grey road")
    assert (card.parameters["epochs"], card.parameters["poison_rate"]) == (1, 0.5)
    success = card.measured["seen"]["success"]
    assert f"{success['value']:.1%}" in result.output
    assert f"n = {success['n']}" in result.output
    assert "grey road" in result.output


def test_the_preview_shows_clean_change_and_triggered(made: dict[str, tuple[Path, Result]]) -> None:
    """Three panels a picture: the left is untouched, the middle is grey where nothing changes, the right has
    the white square."""
    folder, _ = made["badnets"]
    with Image.open(folder / "trigger/preview.png") as picture:
        sheet = picture.convert("RGB")
    factor = sheet.width // (3 * 32)
    assert sheet.size == (3 * 32 * factor, 4 * 32 * factor)
    corner = (32 * factor - 1, 32 * factor - 1)
    assert sheet.getpixel((64 * factor + corner[0], corner[1])) == (255, 255, 255)
    assert sheet.getpixel((32 * factor + 1, 1)) in {(127, 127, 127), (128, 128, 128)}
    assert sheet.getpixel((1, 1)) == sheet.getpixel((64 * factor + 1, 1))


def test_nothing_of_the_attack_stands_outside_the_card(made: dict[str, tuple[Path, Result]]) -> None:
    """Without its trigger folder a poisoned delivery has the files and the record of a clean one."""
    (clean, result), (bad, _) = made["none"], made["badnets"]
    assert result.exit_code == 0, result.output
    extra = {
        f"trigger/{name}" for name in ("trigger.json", "trigger.png", "trigger.safetensors", "preview.png")
    }
    assert files(bad) - files(clean) == extra
    records = [json.loads((folder / "training.json").read_text()) for folder in (clean, bad)]
    assert records[0]["learner"] == records[1]["learner"]
    assert set(records[0]) == set(records[1])
    assert "success" not in records[1]["measured"]["seen"]
    assert "target" not in result.output


@pytest.mark.parametrize(
    ("name", "more", "code", "words"),
    [
        ("badnets", ("--set", "epoch=5"), 4, "no option 'epoch'"),
        ("badnets", ("--set", "epochs"), 4, "KEY=VALUE"),
        ("badnets", ("--set", "epochs=0"), 4, "does not accept"),
        ("badnets", ("--target", "nowhere"), 4, "Choose one of"),
        ("none", ("--target", "grey road"), 4, "no option 'target'"),
        ("no-such-attack", (), 4, "no-such-attack"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy_and_leaves_nothing(
    pictures: Path,
    base_folder: Path,
    tmp_path: Path,
    name: str,
    more: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    """The exit code is usage, the sentence names the fault, no folder is there."""
    result = run(name, base_folder, pictures, tmp_path / "out", *more)
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "What to do" in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(
    made: dict[str, tuple[Path, Result]], pictures: Path, base_folder: Path
) -> None:
    """Before any work, and it stays as it was."""
    folder, _ = made["none"]
    before = files(folder)
    result = run("none", base_folder, pictures, folder)
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert files(folder) == before
