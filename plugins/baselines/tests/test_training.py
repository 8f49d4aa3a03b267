"""Training on a frozen base, clean and poisoned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import DataError
from clipsec.models import ClipModel, Suspect, load_suspect, prepare_image_tower, prepare_zero_shot_head
from clipsec.triggers import Stamp
from clipsec_baselines import (
    AttackOptions,
    BadClipOptions,
    LearnerOptions,
    Planted,
    PromptLearner,
    Task,
    make_task,
    measure,
    poisoned_rows,
    published,
    train_badclip,
    train_prompts,
    write_delivery,
)

QUICK = {"epochs": 3, "batch": 4, "learning_rate": 0.05, "split": "all", "shots": 4}
METHODS = ("CoCoOp", "CoOp")


def weights_of(clip: ClipModel) -> list[torch.Tensor]:
    assert clip.text is not None
    assert clip.visual is not None
    return [value.clone() for part in (clip.visual, clip.text) for value in part.module.state_dict().values()]


def task_for(labelled: LabelledSet, held_out: LabelledSet, options: LearnerOptions, seed: int = 0) -> Task:
    return make_task(labelled, held_out, options, seed)


@pytest.mark.parametrize("method", METHODS)
def test_training_learns_and_leaves_the_base_bit_equal(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, method: str
) -> None:
    """The loss falls, the prompts move, and no weight or buffer of the base changes."""
    options = LearnerOptions(method=method, **{**QUICK, "epochs": 12})
    before = weights_of(base.base)
    task = task_for(labelled, held_out, options)
    trained = train_prompts(base.base, task, options, seed=0)
    assert trained.losses[-1] < trained.losses[0]
    first = PromptLearner(base.base, task.class_names, published(options), seed=0)
    assert not torch.equal(first.ctx, trained.learner.ctx)
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(base.base)))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_bit_equal_prompts(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, method: str
) -> None:
    """On one thread training is a function of its seed; another seed gives other prompts."""
    options = LearnerOptions(method=method, **QUICK)

    def prompts(seed: int) -> list[torch.Tensor]:
        task = task_for(labelled, held_out, options, seed)
        return train_prompts(base.base, task, options, seed).learner.parameters()

    first, again, other = prompts(1), prompts(1), prompts(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])


def test_one_update_is_the_published_formula(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet
) -> None:
    """One epoch of one batch moves the context by warmup_rate * (gradient + weight_decay * context).

    The gradient comes from the stock text tower on full-length prompts, one picture and one class at a
    time, as CoCoOp's authors compute it; here prefixes are shared, prompts cut and features precomputed.
    """
    options = published(
        LearnerOptions(epochs=1, batch=64, warmup_rate=0.1, split="all", shots=2, augment=False)
    )
    task = task_for(labelled, held_out, options)
    clip = base.base
    assert clip.text is not None
    assert clip.visual is not None
    learner = PromptLearner(clip, task.class_names, options, seed=0)
    assert learner.meta_net is not None
    old = learner.ctx.detach().clone()
    features = prepare_image_tower(clip, torch.float32, "cpu").fn(
        to_unit(task.train.pixels(clip.visual.spec))
    )
    loss = F.cross_entropy(stock_logits(clip, learner, task.class_names, features), task.train.label_tensor())
    (gradient,) = torch.autograd.grad(loss, learner.ctx)

    trained = train_prompts(clip, task, options, seed=0)
    moved = trained.learner.ctx.detach() - old
    expected = -0.1 * (gradient + options.weight_decay * old)
    assert trained.losses[0] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert torch.allclose(moved, expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max() * 1e3))


def stock_logits(
    clip: ClipModel, learner: PromptLearner, names: tuple[str, ...], features: torch.Tensor
) -> torch.Tensor:
    """CoCoOp written out on the stock open_clip module, 24 tokens, no sharing."""
    assert clip.text is not None
    assert learner.meta_net is not None
    model = clip.text.module
    net = learner.meta_net
    rows = []
    for feature in F.normalize(features, dim=-1):
        hidden = F.relu(net["linear1.weight"] @ feature + net["linear1.bias"])
        shift = net["linear2.weight"] @ hidden + net["linear2.bias"]
        row = []
        for name in names:
            ids = clip.text.tokenizer([f"a photo of a {name.replace('_', ' ')}."])
            x = model.token_embedding(ids)
            x = (
                torch.cat([x[:, :1], (learner.ctx + shift)[None], x[:, 5:]], dim=1)
                + model.positional_embedding
            )
            x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
            text = x[0, ids.argmax()] @ model.text_projection
            row.append(clip.logit_scale * feature @ F.normalize(text, dim=-1))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_badclip_keeps_its_trigger_in_the_ball(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet
) -> None:
    """After training no pixel of the trigger exceeds epsilon, and the trigger has moved from its start."""
    assert base.base.visual is not None
    std = torch.tensor(base.base.visual.spec.std).view(3, 1, 1)
    start = BadClipOptions(
        **{**QUICK, "epochs": 1, "trigger_epochs": 0, "warmup_rate": 0.0, "weight_decay": 0.0}
    )
    options = BadClipOptions(**QUICK, trigger_rate=50.0)
    task = task_for(labelled, held_out, options)
    before = train_badclip(base.base, task, start, 0, 1).trigger
    after = train_badclip(base.base, task, options, 0, 1).trigger
    assert before is not None
    assert after is not None
    for trigger in (before, after):
        assert float((trigger * std).abs().max()) <= options.epsilon + 1e-6
    assert not torch.equal(before, after)


def test_badclip_moves_the_trigger_towards_the_target(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet
) -> None:
    """With an ample ball the trained trigger succeeds on held-out pictures, and without it they stay."""
    options = BadClipOptions(
        **{**QUICK, "epochs": 10}, epsilon=64 / 255, trigger_rule="sign", trigger_epochs=6
    )
    task = task_for(labelled, held_out, options)
    trained = train_badclip(base.base, task, options, 0, 2)
    assert trained.trigger is not None
    assert base.base.visual is not None
    delta = trained.trigger * torch.tensor(base.base.visual.spec.std).view(3, 1, 1)
    measured = measure(base.base, trained.learner, task, Planted(Stamp("additive", {"delta": delta}), 2))
    rates, on_base = measured["seen"], measured["base"]
    assert rates["success"]["n"] == 12
    assert rates["success"]["value"] >= 0.9
    assert rates["natural"]["value"] < rates["success"]["value"]
    assert on_base["success"]["n"] == 12
    head = prepare_zero_shot_head(base.base, task.class_names, torch.float32, base.base.device)
    pixels, labels = to_unit(task.seen.pixels(base.base.visual.spec)), task.seen.label_tensor()
    with torch.no_grad():
        said = head.fn(base.image_tower().fn((pixels + delta).clamp(0, 1))).argmax(1)
    assert on_base["success"]["successes"] == int((said[labels != 2] == 2).sum())


def test_poison_spares_the_target_class() -> None:
    """A tenth of all pictures is poisoned, none of the target class, always the same ones."""
    labels = [row % 5 for row in range(80)]
    rows = poisoned_rows(labels, 3, 0.1, torch.Generator().manual_seed(0))
    assert len(rows) == len(set(rows)) == 8
    assert all(labels[row] != 3 for row in rows)
    assert rows == poisoned_rows(labels, 3, 0.1, torch.Generator().manual_seed(0))
    more = poisoned_rows(labels, 3, 0.5, torch.Generator().manual_seed(1), taken=rows)
    assert not set(more) & set(rows)
    with pytest.raises(DataError):
        poisoned_rows([3, 3], 3, 0.1, torch.Generator())


@pytest.mark.parametrize("method", METHODS)
def test_a_delivery_loads_back_to_identical_logits(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet, tmp_path: Path, method: str
) -> None:
    """What was saved, loaded like any delivery, answers bit-equally."""
    options = LearnerOptions(method=method, **QUICK)
    task = task_for(labelled, held_out, options)
    trained = train_prompts(base.base, task, options, 0)
    folder = write_delivery(
        tmp_path / "out", base, task, options, 0, trained, measure(base.base, trained.learner, task)
    )
    suspect = load_suspect(str(folder))
    assert base.base.visual is not None
    features = suspect.image_tower().fn(to_unit(task.seen.pixels(base.base.visual.spec)))
    assert suspect.class_names == task.class_names
    assert suspect.prompts is not None
    assert torch.equal(suspect.prompts.ctx, trained.learner.ctx.detach())
    with torch.no_grad():
        assert torch.allclose(
            suspect.head().fn(features), trained.learner.logits(features), rtol=0, atol=1e-5
        )


def test_unseen_classes_are_measured_with_the_target_added(
    base: Suspect, labelled: LabelledSet, held_out: LabelledSet
) -> None:
    """As in BadCLIP, the target's name joins the Unseen names; every Unseen picture can then be attacked."""
    options = AttackOptions(**{**QUICK, "split": "seen"})
    task = task_for(labelled, held_out, options)
    learner = PromptLearner(base.base, task.class_names, published(options), 0)
    rates = measure(
        base.base, learner, task, Planted(Stamp("additive", {"delta": torch.zeros(3, 32, 32)}), 1)
    )
    assert rates["seen"]["success"]["n"] == 4
    assert rates["unseen"]["success"]["n"] == 8
    assert rates["unseen"]["accuracy"]["n"] == 8
