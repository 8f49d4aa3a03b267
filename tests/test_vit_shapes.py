"""Everything also runs on the ViT-B/16 and ViT-B/32 shapes of CLIP, and on CUDA where there is a device.

The weights are random, so that nothing is learned about detectors here: what is tested is that attack, audit
and repair of such a model come to their ends and leave what they should. Widths, patches, heads, context and
vocabulary are CLIP's; on a CPU the towers have two of the twelve layers, the others being the same again.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import attrs
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import clipsec
from clipsec.data import ImagePool, LabelledSet
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Context, load_trigger
from clipsec.results import ClassEvidence, Outcome, Verdict
from clipsec.runner import attack
from clipsec.scheduler import Scheduler
from clipsec.store import UnitStore
from clipsec_clip_inspector import PromptFinetune

NAMES = ("cat", "dog")
pytestmark = pytest.mark.slow

SIZE, SHOTS, POOL, EPSILON = 224, 2, 4, 4 / 255
LAYERS = {"cpu": 2, "cuda": 12}
PLACES = [
    pytest.param(
        (shape, device),
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ]
        if device == "cuda"
        else [],
        id=f"{shape} on {device}",
    )
    for device in ("cpu", "cuda")
    for shape in ("ViT-B-16", "ViT-B-32")
]


def write_base(folder: Path, shape: str, layers: int) -> None:
    """An open_clip folder with random weights; the logit scale is that of the published ones."""
    from open_clip.factory import get_model_config
    from open_clip.model import CLIP

    config = copy.deepcopy(get_model_config(f"{shape}-quickgelu"))
    assert config is not None
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = CLIP(**config)
    module.logit_scale.data.fill_(np.log(100.0))
    folder.mkdir()
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    safetensors.torch.save_file(dict(module.state_dict()), folder / "open_clip_model.safetensors")


def write_pictures(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE)).save(folder / f"{number}.png")


@attrs.frozen(eq=False)
class Workshop:
    """A base, pictures of two classes, a pool, and a delivery that BadCLIP made."""

    folder: Path
    device: str
    base: Suspect
    train: LabelledSet
    pool: ImagePool

    @property
    def delivery(self) -> Path:
        return self.folder / "delivery"


@pytest.fixture(scope="module", params=PLACES)
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One step for the trigger alone and one with the prompts."""
    shape, device = request.param
    folder = tmp_path_factory.mktemp("vit")
    write_base(folder / "base", shape, LAYERS[device])
    for seed, name in enumerate(NAMES):
        write_pictures(folder / "data" / "train" / name, SHOTS, seed)
        write_pictures(folder / "data" / "test" / name, 1, 10 + seed)
    write_pictures(folder / "pool", POOL, 99)
    base = load_suspect(str(folder / "base"), device=device)
    base.base_name = "../base"
    train, test = (LabelledSet.from_folder(folder / "data" / part) for part in ("train", "test"))
    attack(
        "badclip",
        base,
        train,
        folder / "delivery",
        held_out=test,
        options={
            "split": "all",
            "shots": SHOTS,
            "epochs": 1,
            "warmup_epochs": 0,
            "trigger_epochs": 1,
            "batch": SHOTS * len(NAMES),
            "augment": False,
            "epsilon": EPSILON,
        },
    )
    return Workshop(folder, device, base, train, ImagePool.from_folder(folder / "pool"))


@pytest.fixture(scope="module")
def suspect(workshop: Workshop) -> Suspect:
    """The delivery as an auditor gets it."""
    return load_suspect(str(workshop.delivery), device=workshop.device)


def test_an_attack_leaves_a_delivery_with_its_trigger(workshop: Workshop, suspect: Suspect) -> None:
    """CoCoOp prompts on this very base, and a trigger of the frame's size within its ball."""
    assert suspect.prompts is not None
    assert suspect.prompts.method == "CoCoOp"
    assert suspect.class_names == NAMES
    assert suspect.base.digest == workshop.base.base.digest
    delta = load_trigger(workshop.delivery).stamp.tensors["delta"]
    assert delta.shape == (3, SIZE, SIZE)
    assert 0 < float(delta.abs().max()) <= EPSILON + 1e-6


def test_an_audit_searches_every_class_on_the_suspect_and_on_its_base(
    workshop: Workshop, suspect: Suspect, tmp_path: Path
) -> None:
    """Each class has finite numbers and a trigger within the ball; with four pictures, of a model that knows
    nothing, nothing is called clean."""
    result = clipsec.audit(
        suspect,
        pool=workshop.pool,
        detectors=["clip-inspector"],
        options={"clip-inspector": {"epsilon": EPSILON, "batch_size": POOL}},
        runs=tmp_path / "runs",
        shared=tmp_path / "shared",
    )
    (verdict,) = result.verdicts.values()
    assert verdict.outcome is not Outcome.ERROR, verdict.error
    assert result.outcome is not Outcome.CLEAN
    assert {row.name for row in verdict.evidence} == set(NAMES)
    for row in verdict.evidence:
        assert all(np.isfinite(value) for value in row.measures.values())
        (artifact,) = (each for each in row.artifacts if each.kind == "trigger")
        delta = safetensors.torch.load_file(Path(result.folder) / artifact.path)["delta"]
        assert delta.shape == (3, SIZE, SIZE)
        assert float(delta.abs().max()) <= EPSILON + 1e-6
    # Search forward and backward, decision and clean features, of all classes on two heads.
    assert verdict.cost.backward_rows >= 2 * len(NAMES) * POOL


def test_a_repair_changes_the_prompts_and_nothing_else(
    workshop: Workshop, suspect: Suspect, tmp_path: Path
) -> None:
    """One epoch with the attacker's trigger in place of a found one; the result loads on the same base."""
    planted = load_trigger(workshop.delivery)
    content = safetensors.torch.save({"delta": planted.stamp.tensors["delta"]})
    (tmp_path / "run").mkdir()
    made = PromptFinetune()
    context = Context(
        suspect=suspect,
        options=made.options(rounds=0, epochs=1, batch_size=4, validation=0.5, stop_success=None),
        scheduler=Scheduler(),
        units=UnitStore(tmp_path / "units"),
        shared=UnitStore(tmp_path / "shared"),
        folder=tmp_path / "run",
        pool=workshop.pool,
        labelled=workshop.train,
        finding_folder=tmp_path / "run",
        output=tmp_path / "repaired",
    )
    artifact = context.save_artifact("trigger.safetensors", "trigger", content)
    row = ClassEvidence(
        planted.target_index, planted.target_name, True, {"score": 1.0}, POOL, None, (artifact,)
    )
    finding = Verdict(Outcome.FINDING, "planted", target=row.name, target_index=row.index, evidence=(row,))
    context.scheduler.run(made.repair(attrs.evolve(context, finding=finding)))
    repaired = load_suspect(
        str(tmp_path / "repaired"), base=str(workshop.folder / "base"), device=workshop.device
    )
    assert repaired.prompts is not None
    assert suspect.prompts is not None
    assert repaired.base.digest == suspect.base.digest
    assert repaired.class_names == suspect.class_names
    assert not torch.equal(repaired.prompts.ctx.cpu(), suspect.prompts.ctx.cpu())
