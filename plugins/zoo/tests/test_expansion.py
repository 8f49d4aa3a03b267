"""Unpacking a shipped model: whole or not at all, once, whoever else does it at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipsec.errors import MalformedModelError
from clipsec_zoo._compact import VOCABULARY, read_compact, write_compact
from clipsec_zoo._expanded import expand, is_whole

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    """A compact model of a few tensors."""
    torch.manual_seed(0)
    tensors = {
        "token_embedding.weight": torch.randn(3, 4),
        "visual.weight": torch.randn(5, 6),
        "visual.running_var": torch.rand(6) * 1e-9,
        "logit_scale": torch.tensor(2.5),
    }
    folder = tmp_path / "shipped"
    write_compact(folder, "tiny", tensors, torch.tensor([7, 320, 49407]), {"config": {"model_cfg": {}}})
    return folder


def test_seen_words_keep_their_row_and_all_others_get_the_mean(compact: Path, tmp_path: Path) -> None:
    """The expanded table has CLIP's full vocabulary."""
    tensors = load_file(expand(compact, "tiny", tmp_path / "models") / WEIGHTS)
    table = tensors["token_embedding.weight"].float()
    seen = table[[7, 320, 49407]]
    torch.manual_seed(0)
    assert table.shape == (VOCABULARY, 4)
    assert torch.equal(seen, torch.randn(3, 4).half().float())
    assert torch.allclose(table[1000], seen.mean(dim=0), atol=1e-3)


def test_variances_too_small_for_half_precision_survive(compact: Path) -> None:
    """Batch-norm statistics are kept in fp32."""
    tensors, _ = read_compact(compact, "tiny")
    assert tensors["visual.running_var"].dtype == torch.float32
    assert bool((tensors["visual.running_var"] > 0).all())


@pytest.mark.parametrize("damage", ["truncate", "edit", "description", "missing", "not json"])
def test_a_damaged_package_is_refused_with_a_remedy(compact: Path, tmp_path: Path, damage: str) -> None:
    """Truncated, edited or missing files: nothing is unpacked, and the message says to reinstall."""
    weights, description = compact / "tiny.safetensors", compact / "tiny.json"
    whole = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(whole[:-10])
    elif damage == "edit":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "description":
        text = description.read_text()
        description.write_text(text.replace('"sha256": "', '"sha256": "0'))
    elif damage == "missing":
        weights.unlink()
    else:
        description.write_text("{")
    with pytest.raises(MalformedModelError) as caught:
        expand(compact, "tiny", tmp_path / "models")
    assert "reinstall" in caught.value.remedy
    assert not list((tmp_path / "models").glob("*/*.safetensors"))


@pytest.mark.parametrize("damage", ["truncate", "no manifest", "config"])
def test_a_damaged_or_half_made_result_is_made_again(compact: Path, tmp_path: Path, damage: str) -> None:
    """A process killed while unpacking leaves no manifest; a disk error leaves a wrong digest."""
    folder = expand(compact, "tiny", tmp_path / "models")
    whole = (folder / WEIGHTS).read_bytes()
    if damage == "truncate":
        (folder / WEIGHTS).write_bytes(whole[:100])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
        (folder / WEIGHTS).unlink()
    else:
        (folder / "open_clip_config.json").write_text("{}")
    assert not is_whole(folder, "anything")
    assert expand(compact, "tiny", tmp_path / "models") == folder
    assert (folder / WEIGHTS).read_bytes() == whole
    assert "model_cfg" in (folder / "open_clip_config.json").read_text()


def test_two_packages_never_share_a_folder(compact: Path, tmp_path: Path) -> None:
    """An upgrade that ships another model unpacks beside the old one."""
    first = expand(compact, "tiny", tmp_path / "models")
    tensors, facts = read_compact(compact, "tiny")
    rows = tensors.pop("token_embedding.weight")[[7, 320, 49407]]
    changed = {**tensors, "token_embedding.weight": rows + 1}
    write_compact(compact, "tiny", changed, torch.tensor([7, 320, 49407]), {"config": facts["config"]})
    assert expand(compact, "tiny", tmp_path / "models") != first


def test_processes_that_unpack_at_once_agree(compact: Path, tmp_path: Path) -> None:
    """One writes, the others wait; all end with the same whole folder and nothing temporary is left."""
    script = (
        "import sys; from pathlib import Path; from clipsec_zoo._expanded import expand; "
        "print(expand(Path(sys.argv[1]), 'tiny', Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", script, str(compact), str(tmp_path / "models")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=200)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    folder = Path(printed.pop())
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "open_clip_config.json",
        WEIGHTS,
    ]
