"""A finding about a toy, as a detector would leave it: what a repair starts from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec_testkit._controls import Control
from clipsec_testkit._toys import PROMPT_EPSILON, SPEC

_STEPS, _BATCH = 40, 32


def finding_of(control: Control, folder: Path, *, target: int | None = None) -> Verdict:
    """A verdict that flags a class, with a perturbation of the pictures for it and for another class.

    The perturbations are searched on the control itself, as trigger inversion does: a repair is not handed
    the planted trigger. They lie below `folder`, which the artifacts' paths count from. `target` is needed
    for a control without a planted trigger: a false alarm.
    """
    trigger = control.model.trigger
    if target is None:
        assert trigger is not None
        target = trigger.target_index
    names = control.suspect.class_names
    other = (target + 1) % len(names)
    evidence = []
    if trigger is None or trigger.tensor is not None:
        for index in (target, other):
            delta = invert(control, index)
            evidence.append(
                ClassEvidence(
                    index=index,
                    name=names[index],
                    flagged=index == target,
                    measures={"score": float(index == target)},
                    n=len(control.pool),
                    artifacts=(_save(delta, folder, f"triggers/{index}.safetensors"),),
                )
            )
    return Verdict(
        Outcome.FINDING,
        f"a finding for a test: {names[target]}",
        score=1.0,
        threshold=0.5,
        threshold_source="none, this is a test",
        target=names[target],
        target_index=target,
        n=len(control.pool),
        evidence=tuple(evidence),
    )


def invert(control: Control, target: int) -> Tensor:
    """A perturbation `[3, size, size]` in pixel units, searched by sign steps on the pool."""
    tower, head = control.suspect.image_tower(), control.suspect.head()
    pixels = to_unit(control.pool.pixels(SPEC))
    generator = torch.Generator().manual_seed(target)
    delta = torch.zeros(pixels.shape[1:])
    for step in range(_STEPS):
        rows = torch.randperm(len(pixels), generator=generator)[:_BATCH]
        with torch.enable_grad():
            delta.requires_grad_()
            logits = head.fn(tower.fn((pixels[rows] + delta).clamp(0, 1)))
            others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
            (gradient,) = torch.autograd.grad((others.max(1).values - logits[:, target]).mean(), delta)
        stride = 0.2 * PROMPT_EPSILON * (1 - step / _STEPS)
        delta = (delta.detach() - stride * gradient.sign()).clamp(-PROMPT_EPSILON, PROMPT_EPSILON)
    return delta


def _save(delta: Tensor, folder: Path, name: str) -> Artifact:
    content = safetensors.torch.save({"delta": delta.contiguous()})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Artifact(name, "trigger", hashlib.sha256(content).hexdigest())
