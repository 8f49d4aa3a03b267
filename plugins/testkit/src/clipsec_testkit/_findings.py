"""A finding about a toy, as a detector would leave it: what a repair starts from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import to_unit
from clipsec.models import ClipTokenizer, insert_tokens, prepare_text_tower, text_ends, token_table
from clipsec.results import Artifact, ClassEvidence, Outcome, Verdict
from clipsec_testkit._controls import Control
from clipsec_testkit._pictures import CLASS_NAMES
from clipsec_testkit._toys import PROMPT_EPSILON, SPEC
from clipsec_testkit._training import CONFIG, TEMPLATES

_STEPS, _BATCH = 40, 32
_TOKENS = 24


def finding_of(control: Control, folder: Path, *, target: int | None = None) -> Verdict:
    """A verdict that flags a class, with a perturbation of the pictures for it and for another class, or with
    tokens for captions where the trigger is a word.

    They are searched on the control itself, as detectors do: a repair is not handed the planted trigger. They
    lie below `folder`, which the artifacts' paths count from. `target` is needed for a control without a
    planted trigger: a false alarm, with both; its class must be the first, as row 0 of the tokens belongs to
    evidence 0.
    """
    trigger = control.model.trigger
    if target is None:
        assert trigger is not None
        target = trigger.target_index
    names = control.suspect.class_names
    other = (target + 1) % len(names)
    evidence: list[ClassEvidence] = []
    artifacts: tuple[Artifact, ...] = ()
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
                    artifacts=(
                        _save(
                            safetensors.torch.save({"delta": delta.contiguous()}),
                            folder,
                            f"triggers/{index}.safetensors",
                            "trigger",
                        ),
                    ),
                )
            )
    if trigger is None or trigger.tensor is None:
        row = {"ids": search_tokens(control), "text": "tokens that a search found", "site": "end"}
        artifacts = (_save(json.dumps([row]).encode(), folder, "sequences.json", "sequences"),)
        if not evidence:
            evidence = [ClassEvidence(0, "tokens", True, {"score": 1.0}, len(CLASS_NAMES))]
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
        artifacts=artifacts,
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


@torch.no_grad()
def search_tokens(control: Control) -> list[int]:
    """Ids of one or two tokens that, before the end of captions, move them further than in the clean toy:
    the best of those whose embeddings differ most, then with a second one behind it."""
    clips = (control.suspect.base, control.reference.base)
    tables = [token_table(clip) for clip in clips]
    words = [TEMPLATES[0].format(name) for name in CLASS_NAMES]
    ids = ClipTokenizer(CONFIG["text_cfg"]["context_length"])(words)
    ends = text_ends(clips[0], ids)
    likely = (tables[0] - tables[1]).norm(dim=1).topk(_TOKENS).indices.tolist()

    def reach(tokens: list[int]) -> float:
        rows, _ = insert_tokens(ids, torch.tensor(tokens), ends)
        moved = []
        for clip in clips:
            tower = prepare_text_tower(clip, torch.float32, "cpu").fn
            moved.append((F.normalize(tower(rows), dim=-1) - F.normalize(tower(ids), dim=-1)).mean(dim=0))
        return float(moved[0].norm() - moved[1].norm())

    best = max(([token] for token in likely), key=reach)
    return max([best, *([*best, token] for token in likely)], key=reach)


def _save(content: bytes, folder: Path, name: str, kind: str) -> Artifact:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Artifact(name, kind, hashlib.sha256(content).hexdigest())
