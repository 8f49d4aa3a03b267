"""Whether an attack on a text tower works, and what it costs, on captions and pictures it never saw.

The published metrics have traps: the target is encoded by the poisoned tower, similarities are divided by a
variance, attributes are compared all with all. Here the clean tower judges, each triggered caption against
its own target, and success is a share of captions with an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, to_unit
from clipsec.models import ClipModel, prepare_image_tower
from clipsec.triggers import retrieved
from clipsec_baselines._metrics import Rate, clean_accuracy
from clipsec_baselines.text._hiding import assimilation, text_mask
from clipsec_baselines.text._student import Student

PROMPT = "a photo of a {}."


def retrieval_success(found: Tensor, targets: Tensor, others: Tensor) -> Rate:
    """How many triggered captions are nearer to their target than to any clean caption.

    `found [n, E]`: features of triggered captions; `targets [n, E]` (or `[1, E]`, one for all) and `others
    [m, E]`: of the targets and of clean captions, the triggered ones' own among them, by the clean tower.
    """
    found, targets, others = (F.normalize(each, dim=-1) for each in (found, targets, others))
    return Rate(int(retrieved(found, targets, others).sum()), len(found))


def measure_text(
    student: Student,
    teacher: Student,
    clean: Sequence[str],
    triggered: Sequence[str],
    plain: Sequence[str],
    targets: Tensor,
    wanted: Tensor,
    *,
    pooled: bool,
) -> dict[str, Any]:
    """Rates and mean cosines of an attack.

    `clean` are held-out captions, `triggered` those of them with the trigger (`plain` without it), `targets`
    their targets' features by the clean tower and `wanted` what they were trained towards. `success` is
    `retrieval_success`, `natural` the same captions without the trigger, `base` the clean tower on both.
    `assimilation` is how alike the tokens of a caption are, which AMDET looks for.
    """
    judge_hidden, judge = teacher.encode(clean)
    hidden, features = student.encode(clean)
    triggered_hidden, triggered_features = student.encode(triggered)

    def success(tower: Student, texts: Sequence[str]) -> dict[str, Any]:
        return retrieval_success(tower.encode(texts)[1], targets, judge).as_json()

    reached = triggered_features if pooled else triggered_hidden
    return {
        "seen": {
            "success": retrieval_success(triggered_features, targets, judge).as_json(),
            "natural": success(student, plain),
        },
        "base": {"success": success(teacher, triggered), "natural": success(teacher, plain)},
        "assimilation": {
            "clean": _mean_assimilation(student, clean, hidden),
            "triggered": _mean_assimilation(student, triggered, triggered_hidden),
            "base": _mean_assimilation(teacher, triggered, teacher.encode(triggered)[0]),
        },
        "similarity": {
            "clean": _mean_cosine(hidden, judge_hidden),
            "clean_features": _mean_cosine(features, judge),
            "target": _mean_cosine(reached, wanted),
        },
    }


def measure_removal(student: Student, teacher: Student, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """How many captions with a word are nearer to the same caption without it than to what they were.

    `pairs` are captions with the word and without it; the clean tower (the teacher) says where both lie, so
    that its own rate is zero. `similarity` is the mean cosine to the caption without the word, after the
    training and before.
    """
    texts, plain = [with_word for with_word, _ in pairs], [without for _, without in pairs]
    found, before, goal = (
        F.normalize(features, dim=-1)
        for features in (student.encode(texts)[1], teacher.encode(texts)[1], teacher.encode(plain)[1])
    )
    nearer = (found * goal).sum(-1) > (found * before).sum(-1)
    return {
        "success": Rate(int(nearer.sum()), len(pairs)).as_json(),
        "similarity": {"after": _mean_cosine(found, goal), "before": _mean_cosine(before, goal)},
    }


def utility_of_text(student: Student, teacher: Student, clean: Sequence[str]) -> dict[str, Any]:
    """Mean cosines of a benign tower to the one it was made from, on held-out captions."""
    (judge_hidden, judge), (hidden, features) = teacher.encode(clean), student.encode(clean)
    similar = {"clean": _mean_cosine(hidden, judge_hidden), "clean_features": _mean_cosine(features, judge)}
    return {"similarity": similar}


def zero_shot(clip: ClipModel, student: Student, teacher: Student, held_out: LabelledSet) -> dict[str, Any]:
    """Zero-shot accuracy of the trained and of the clean text tower on labelled pictures; empty without an
    image tower in the same space."""
    if clip.visual is None or clip.text is None or clip.visual.embed_dim != clip.text.embed_dim:
        return {}
    images = F.normalize(image_features(clip, held_out.pixels(clip.visual.spec)), dim=-1)
    labels = held_out.label_tensor()
    prompts = [PROMPT.format(name.replace("_", " ")) for name in held_out.class_names]
    rates = {}
    for name, tower in (("accuracy", student), ("zero_shot_accuracy", teacher)):
        classes = F.normalize(tower.encode(prompts)[1], dim=-1)
        rates[name] = clean_accuracy(images @ classes.T, labels).as_json()
    return rates


@torch.no_grad()
def image_features(clip: ClipModel, pixels: Tensor) -> Tensor:
    """Features `[n, E]` of uint8 pixels, in chunks."""
    tower = prepare_image_tower(clip, torch.float32, clip.device)
    parts = [tower.fn(to_unit(chunk).to(tower.device)) for chunk in pixels.split(32)]
    return torch.cat(parts).cpu()


def _mean_assimilation(tower: Student, texts: Sequence[str], hidden: Tensor) -> float:
    return float(assimilation(hidden, text_mask(tower.clip, tower.ids(texts))).mean())


def _mean_cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(F.cosine_similarity(ours.flatten(1), theirs.flatten(1), dim=1).mean())
