"""Loading prompt-tuned deliveries: CoOp's and CoCoOp's files, what they must fit, and writing them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from clipsec.errors import (
    MalformedModelError,
    MisloadedModelError,
    ModelError,
    StoreError,
    UnsafeModelError,
    UnsupportedModelError,
)
from clipsec.models import load_prompts, load_suspect, save_prompts

Tuned = Callable[..., Path]
NAMES = ("cat", "fire_truck", "palm tree")


def test_a_cocoop_delivery_loads_with_its_base(tuned: Tuned, learner: dict[str, Tensor]) -> None:
    """Prompts, class names and base come from the folder; the head answers for every class."""
    suspect = load_suspect(tuned())
    prompts = suspect.prompts
    assert prompts is not None
    assert (suspect.kind, prompts.method, suspect.class_names) == ("prompt-tuned", "CoCoOp", NAMES)
    assert torch.equal(prompts.ctx, learner["ctx"])
    assert prompts.meta_net is not None
    assert torch.equal(prompts.meta_net["linear2.weight"], learner["meta_net.linear2.weight"])
    assert suspect.base_name == "../base"
    assert {"prompt_learner/model.pth.tar-10", "clipsec.json", "base/open_clip_model.safetensors"} == set(
        suspect.files
    )
    head = suspect.head()
    assert head.fn(torch.randn(2, 24)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(4, 16), (3, 4, 16)])
def test_coop_shared_and_class_specific(tuned: Tuned, shape: tuple[int, ...]) -> None:
    """CoOp's context is shared, or one a class (CSC)."""
    suspect = load_suspect(tuned(tensors={"ctx": torch.randn(shape) * 0.1}, method="CoOp"))
    assert suspect.prompts is not None
    assert suspect.prompts.method == "CoOp"
    assert suspect.prompts.ctx.shape == shape
    assert suspect.head().fn(torch.randn(2, 24)).shape == (2, 3)


def test_half_precision_prompts_become_fp32(tuned: Tuned, learner: dict[str, Tensor]) -> None:
    """The authors train in fp16; nothing is lost by widening."""
    halves = {name: tensor.half() for name, tensor in learner.items()}
    prompts = load_prompts(tuned(tensors=halves))
    assert prompts.ctx.dtype == torch.float32
    assert torch.equal(prompts.ctx, learner["ctx"].half().float())


class _ConstantWarmup(LRScheduler):
    """Dassl's warm-up scheduler: keeps its successor, and so the optimiser, as objects in its state."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: LRScheduler) -> None:
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return list(self.base_lrs)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_authors_own_checkpoints_load(tuned: Tuned, learner: dict[str, Tensor], zipped: bool) -> None:
    """Dassl saves optimiser and scheduler as objects; they are not needed, not imported, and no obstacle."""
    folder = tuned()
    parameter = torch.nn.Parameter(learner["ctx"].clone())
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9, weight_decay=5e-4)
    parameter.sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": learner,
        "epoch": 10,
        "optimizer": optimizer.state_dict(),
        "scheduler": _ConstantWarmup(optimizer, CosineAnnealingLR(optimizer, 10.0)).state_dict(),
        "milestones": MultiStepLR(optimizer, [3, 6]).state_dict(),
        "val_result": 81.25,
    }
    path = folder / "prompt_learner" / "model.pth.tar-10"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(Exception, match="CosineAnnealingLR"):
        torch.load(path, weights_only=True)  # torch alone refuses it
    assert torch.equal(load_prompts(folder).ctx, learner["ctx"])


def test_which_file_counts(tuned: Tuned, learner: dict[str, Tensor]) -> None:
    """Best validation first, else the latest epoch; what was not read is named."""
    other = {**learner, "ctx": learner["ctx"] + 1}
    folder = tuned()
    tuned(file="prompt_learner/model.pth.tar-9", tensors=other)
    assert torch.equal(load_prompts(folder).ctx, learner["ctx"])
    assert "model.pth.tar-9 lie beside it and were not" in load_suspect(folder).card.notes[0]
    tuned(file="prompt_learner/model-best.pth.tar", tensors=other)
    assert torch.equal(load_prompts(folder).ctx, other["ctx"])
    record = json.loads((folder / "clipsec.json").read_text())
    (folder / "clipsec.json").write_text(json.dumps(record | {"weights": "prompt_learner/model.pth.tar-10"}))
    assert torch.equal(load_prompts(folder).ctx, learner["ctx"])


def test_files_in_the_folders_root(tuned: Tuned, learner: dict[str, Tensor]) -> None:
    """A delivery may hold the checkpoint without the prompt_learner folder."""
    assert torch.equal(load_prompts(tuned(file="model-best.pth.tar")).ctx, learner["ctx"])


def test_a_safetensors_twin_must_be_the_same(tuned: Tuned, learner: dict[str, Tensor]) -> None:
    """Two forms of one delivery that differ would let a clean one be audited and the other be used."""
    folder = tuned()
    twin = folder / "prompt_learner" / "model.safetensors"
    save_file(learner, twin)
    assert torch.equal(load_prompts(folder).ctx, learner["ctx"])
    save_file({**learner, "ctx": learner["ctx"] + 1e-3}, twin)
    with pytest.raises(MalformedModelError, match="different prompts"):
        load_prompts(folder)
    for path in (folder / "prompt_learner").glob("model.pth*"):
        path.unlink()
    assert torch.equal(load_prompts(folder).ctx, learner["ctx"] + 1e-3)


def test_the_user_may_say_what_the_delivery_leaves_open(tuned: Tuned, base: Path) -> None:
    """Without clipsec.json the base and the class names are given, or listed in classnames.txt."""
    folder = tuned()
    (folder / "clipsec.json").unlink()
    with pytest.raises(ModelError, match="does not name its classes"):
        load_suspect(folder, base=str(base))
    with pytest.raises(ModelError, match="which model its prompts were trained on"):
        load_suspect(folder, class_names=NAMES)
    told = load_suspect(folder, base=str(base), class_names=NAMES)
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n\n")
    listed = load_suspect(folder, base=str(base))
    assert told.class_names == listed.class_names == NAMES
    assert told.digest == listed.digest
    assert told.base_name == str(base)


def test_other_class_names_are_noted(tuned: Tuned) -> None:
    """Names from the user count, and the report says that they are not the delivery's."""
    suspect = load_suspect(tuned(), class_names=["dog", "car", "tree"])
    assert suspect.class_names == ("dog", "car", "tree")
    assert "the delivery names others" in suspect.card.notes[0]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat"], "one class name"),
        (["cat", "dog", ""], "class name 3 of 3 is empty"),
        (["cat", "dog", "_"], "class name 3 of 3 is empty"),
        (["cat", "palm tree", "Palm_tree"], "'palm tree' appears twice"),
        (["cat", "dog", "x" * 600], "600 characters"),
        (["cat", "dog", "a very long name " * 10], "do not fit into"),
    ],
)
def test_class_names_that_no_classifier_has(tuned: Tuned, names: list[str], told: str) -> None:
    """One class, empty names, doubles and names longer than the context are refused."""
    with pytest.raises(MalformedModelError, match=told) as caught:
        load_suspect(tuned(class_names=names))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda t: t.pop("ctx"), UnsupportedModelError, "not the prompts of CoOp"),
        (lambda t: t.update(ctx=torch.zeros(16)), MalformedModelError, "ctx has the shape"),
        (lambda t: t.update(ctx=torch.zeros(0, 16)), MalformedModelError, "ctx has the shape"),
        (lambda t: t.update(ctx=torch.zeros(3, 4, 16)), MalformedModelError, "ctx has the shape"),
        (lambda t: t.update(ctx=torch.zeros(4, 17)), MalformedModelError, "meta_net.linear2"),
        (lambda t: t.update(ctx=torch.zeros(30, 16)), MalformedModelError, "do not fit into"),
        (lambda t: t.update(ctx=torch.zeros(4, 16, dtype=torch.int64)), MalformedModelError, "int64"),
        (lambda t: t["ctx"].fill_(float("nan")), MalformedModelError, "not finite"),
        (lambda t: t["meta_net.linear1.bias"].fill_(float("inf")), MalformedModelError, "not finite"),
        (lambda t: t.pop("meta_net.linear1.bias"), MalformedModelError, "lacks linear1.bias"),
        (
            lambda t: t.update({"meta_net.linear1.weight": torch.zeros(2, 25)}),
            MalformedModelError,
            "25 numbers",
        ),
        (
            lambda t: t.update({"meta_net.linear2.bias": torch.zeros(3)}),
            MalformedModelError,
            "linear2.bias has",
        ),
        (lambda t: t.update(token_suffix=torch.zeros(5, 19, 16)), MalformedModelError, "saved for 5 classes"),
        (
            lambda t: t.update(token_prefix=torch.zeros(3, 16)),
            MalformedModelError,
            "token_prefix has the shape",
        ),
        (
            lambda t: t.update({"compound_prompts_text.0": torch.zeros(2, 16)}),
            UnsupportedModelError,
            "MaPLe",
        ),
        (lambda t: t.update(sixth=torch.zeros(1)), UnsupportedModelError, "unknown tensors: sixth"),
    ],
)
def test_tensors_that_are_no_prompts(
    tuned: Tuned, learner: dict[str, Tensor], change: Callable[[Any], Any], error: type[Exception], told: str
) -> None:
    """Every missing, extra, misshapen or non-finite tensor has its own sentence."""
    tensors = {name: tensor.clone() for name, tensor in learner.items()}
    change(tensors)
    with pytest.raises(error, match=told):
        load_suspect(tuned(tensors=tensors))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"format": "something"}, MalformedModelError, "does not say that it is"),
        ({"version": 2}, UnsupportedModelError, "version 2"),
        ({"method": "CoOp"}, MalformedModelError, "its tensors are CoCoOp's"),
        ({"method": "MaPLe"}, UnsupportedModelError, "MaPLe"),
        ({"class_token_position": "middle"}, UnsupportedModelError, "middle"),
        ({"class_names": "cat"}, MalformedModelError, "class_names"),
        ({"class_names": ["cat", 5]}, MalformedModelError, "class_names"),
        ({"base": "../base"}, MalformedModelError, "base is not an object"),
        ({"base": {"spec": 5}}, MalformedModelError, "spec is not a short text"),
        ({"base": {"spec": "../nowhere"}}, ModelError, "there is no"),
        ({"logit_scale": -1}, MalformedModelError, "logit_scale"),
        ({"weights": "../../elsewhere.pt"}, MalformedModelError, "outside the delivery"),
        ({"weights": "prompt_learner/none.pt"}, ModelError, "there is no"),
    ],
)
def test_records_that_are_wrong(
    tuned: Tuned, change: dict[str, Any], error: type[Exception], told: str
) -> None:
    """clipsec.json is checked like any other file of a stranger."""
    with pytest.raises(error, match=told):
        load_suspect(tuned(**change))


def test_a_recorded_base_is_checked(tuned: Tuned, base: Path) -> None:
    """Prompts on another base than they were trained on are another model."""
    digest = load_suspect(base).base.digest
    good = tuned("good", base={"spec": "../base", "digest": digest, "activation": "gelu"})
    assert load_suspect(good).base.digest == digest
    for record, told in (({"digest": "0" * 64}, "digest"), ({"activation": "quick_gelu"}, "quick_gelu")):
        with pytest.raises(MisloadedModelError, match=told):
            load_suspect(tuned(f"bad {told}", base={"spec": "../base", **record}))


def test_a_base_is_no_delivery(tuned: Tuned, tmp_path: Path) -> None:
    """A delivery that names itself, or another delivery, as its base ends in an error and not in a circle."""
    with pytest.raises(UnsupportedModelError, match="itself a prompt-tuned delivery"):
        load_suspect(tuned(base={"spec": "."}))
    with pytest.raises(ModelError):
        load_suspect(tuned("again", base={"spec": f"prompt-tuned:{tmp_path / 'again'}"}))


def test_a_base_needs_both_towers(
    tuned: Tuned, deliver: Callable[..., Path], config_with: Callable[..., Any]
) -> None:
    """A base whose texts cannot be used is refused, with the reason."""
    import open_clip

    config = config_with(text_cfg__vocab_size=300)
    deliver("half a base", config=config, tensors=dict(open_clip.CLIP(**config).state_dict()))
    with pytest.raises(UnsupportedModelError, match="no usable text tower") as caught:
        load_suspect(tuned(base={"spec": "../half a base"}))
    assert "300 tokens" in caught.value.remedy


def test_saving_and_loading_gives_the_same_prompts(tuned: Tuned, base: Path, tmp_path: Path) -> None:
    """save_prompts writes the authors' layout, and what it wrote loads bit-equal without a note."""
    suspect = load_suspect(tuned())
    assert suspect.prompts is not None
    clip = load_suspect(base).base
    folder = save_prompts(
        tmp_path / "saved", suspect.prompts, base="../base", epoch=7, clip=clip, extra={"seed": 1}
    )
    again = load_suspect(folder)
    assert again.prompts is not None
    assert again.prompts.digest == suspect.prompts.digest
    assert again.digest == suspect.digest
    assert again.card.notes == ()
    assert (folder / "prompt_learner" / "checkpoint").read_text() == "model.pth.tar-7\n"
    written = torch.load(folder / "prompt_learner" / "model.pth.tar-7", weights_only=True)
    assert written["epoch"] == 7
    assert {"ctx", "token_prefix", "token_suffix", "meta_net.linear1.weight"} < set(written["state_dict"])
    assert written["state_dict"]["token_suffix"].shape == (3, 24 - 5, 16)
    record = json.loads((folder / "clipsec.json").read_text())
    assert record["base"] == {"spec": "../base", "digest": clip.digest, "activation": "gelu"}
    assert record["extra"] == {"seed": 1}


def test_saved_tokens_tell_of_other_class_names(tuned: Tuned, base: Path, tmp_path: Path) -> None:
    """Tokens saved with the prompts that do not belong to the names in use are noted, as are other scales."""
    suspect = load_suspect(tuned())
    assert suspect.prompts is not None
    clip = load_suspect(base).base
    folder = save_prompts(tmp_path / "saved", suspect.prompts, base="../base", epoch=7, clip=clip)
    swapped = load_suspect(folder, class_names=["cat", "palm tree", "fire_truck"])
    assert any("token_suffix" in note and "palm tree" in note for note in swapped.card.notes)
    record = json.loads((folder / "clipsec.json").read_text())
    (folder / "clipsec.json").write_text(json.dumps(record | {"logit_scale": 100.0}))
    assert "records the logit scale 100" in load_suspect(folder).card.notes[0]


def test_nothing_is_written_over_and_nothing_half(tuned: Tuned, tmp_path: Path) -> None:
    """A folder with content is left as it is; a failed write leaves nothing behind."""
    prompts = load_prompts(tuned())
    target = tmp_path / "out"
    target.mkdir()
    assert save_prompts(target, prompts, base="../base", epoch=1) == target  # empty: fine
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StoreError, match="exists already"):
        save_prompts(target, prompts, base="../base", epoch=2)
    assert (target / "prompt_learner" / "checkpoint").read_text() == "model.pth.tar-1\n"
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StoreError):
        save_prompts(blocked / "below", prompts, base="../base", epoch=1)
    blocked.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_unwritable_extras_leave_nothing(tuned: Tuned, tmp_path: Path) -> None:
    """What cannot be written as JSON is noticed before the first file."""
    prompts = load_prompts(tuned())
    with pytest.raises((TypeError, ValueError)):
        save_prompts(tmp_path / "out", prompts, base="b", epoch=1, extra={"x": float("nan")})
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_foreign_global_in_the_prompts_is_refused(tuned: Tuned) -> None:
    """Prompts are read as safely as models."""
    folder = tuned()
    torch.save({"state_dict": {"ctx": torch.zeros(4, 16)}, "extra": shutil.copyfile},
               folder / "prompt_learner" / "model.pth.tar-10")  # fmt: skip
    with pytest.raises(UnsafeModelError, match=r"shutil\.copyfile"):
        load_suspect(folder)


def test_the_prefix_and_relative_specs(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """prompt-tuned:FOLDER asks for this loader; the base counts from the delivery, wherever one stands."""
    folder = tuned()
    expected = load_suspect(folder).digest
    monkeypatch.chdir(folder.parent)
    assert load_suspect("prompt-tuned:tuned").digest == expected
    assert load_suspect(os.path.join("tuned", "")).digest == expected
