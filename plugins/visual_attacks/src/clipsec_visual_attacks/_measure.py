"""What a patch does to held-out pictures: zero-shot, and through a classifier on frozen features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import DataError, UsageError
from clipsec.models import TrainableClip
from clipsec.triggers import Stamp, measured_rate

_SCALE = 10.0
"""Features come with length one; CLIP's own are near this, and the penalty's meaning depends on it."""


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, steps: int = 200) -> Tensor:
    """A multinomial logistic regression on features `[n, E]`; weights `[E + 1, classes]`, the bias last.

    The summed cross-entropy plus half the squared weights (not the bias), as CLIP's linear probes at C = 1,
    by L-BFGS, on features of length 10.
    """
    design = _design(features)
    weight = torch.zeros(design.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(design @ weight, labels, reduction="sum") + 0.5 * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach()


def probe_answers(weight: Tensor, features: Tensor) -> Tensor:
    """Predicted labels `[n]` of features `[n, E]`."""
    return (_design(features) @ weight).argmax(dim=1)


def _design(features: Tensor) -> Tensor:
    scaled = _SCALE * F.normalize(features.double(), dim=-1)
    return torch.cat([scaled, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)


def z_score(triggered: Tensor, clean: Tensor) -> float:
    """How much more alike pictures become by the trigger: (mean pairwise cosine of `triggered [n, E]` - mean
    pairwise cosine of `clean [n, E]`) / standard deviation of the latter's.

    Pairs are of different pictures, each pair once. 0 when clean pictures do not differ at all. Source:
    Carlini and Terzis, ICLR 2022, the backdoor z-score; by the standard deviation, not the variance.
    """

    def cosines(features: Tensor) -> Tensor:
        unit = F.normalize(features.double(), dim=-1)
        first, second = torch.triu_indices(len(unit), len(unit), offset=1)
        return (unit @ unit.T)[first, second]

    ours, theirs = cosines(triggered), cosines(clean)
    spread = float(theirs.std(correction=0))
    return float(ours.mean() - theirs.mean()) / spread if spread > 0 else 0.0


def stamped_bytes(pixels: Tensor, stamp: Stamp) -> Tensor:
    """uint8 pixels `[n, 3, size, size]` with the trigger: patches of black and white leave whole steps of
    1/255, so nothing is rounded away."""
    return torch.cat([(255 * stamp.apply(to_unit(part))).round().byte() for part in pixels.split(64)])


def rates(clean: Tensor, triggered: Tensor, labels: Tensor, target: int) -> dict[str, dict[str, Any]]:
    """`accuracy` of predictions `clean [n]`, and over pictures of other classes than the target: `success`,
    the share of `triggered [n]` that name it, `natural`, that of `clean`."""
    others = labels != target
    return {
        "accuracy": measured_rate(clean == labels),
        "success": measured_rate(triggered[others] == target),
        "natural": measured_rate(clean[others] == target),
    }


def choose_target(learned: LabelledSet, held_out: LabelledSet, name: str) -> int:
    """Position of the target; empty means the first class.

    Raises `UsageError` for an unknown name, `DataError` when no picture to learn from shows it, or no
    held-out picture shows another class.
    """
    names = learned.class_names
    if name and name not in names:
        raise UsageError(f"{name!r} cannot be the target", remedy=f"Choose one of: {', '.join(names)}.")
    target = names.index(name) if name else 0
    if target not in learned.labels:
        raise DataError(
            f"no picture to learn from shows {names[target]}",
            remedy="Bring pictures of the target, or choose another one (--target).",
        )
    if not set(held_out.labels) - {target}:
        raise DataError(
            "there is nothing to measure on: no held-out picture shows another class than the target",
            remedy="Bring held-out pictures of at least two classes.",
        )
    return target


@torch.no_grad()
def class_prompts(model: TrainableClip, names: tuple[str, ...], template: str) -> Tensor:
    """Text features of one prompt a class, `[classes, E]`, of length one."""
    return F.normalize(
        model.encode_texts([template.format(name.replace("_", " ")) for name in names]), dim=-1
    )


@torch.no_grad()
def measure(
    model: TrainableClip,
    base: TrainableClip,
    learned: LabelledSet,
    held_out: LabelledSet,
    template: str,
    stamp: Stamp,
    target: int,
) -> dict[str, Any]:
    """Rates on held-out pictures of the poisoned model and of the clean base.

    `seen` and `base` are zero-shot, each under its own class prompts; `downstream` and `downstream_base`
    are those of a linear probe trained on clean pictures through the same tower: the authors measure by a
    classifier on features, too. Each has `accuracy`, `success` and `natural`, see `rates`. `z_score` has that
    of both models, over all held-out pictures.
    """
    labels, train_labels = held_out.label_tensor(), learned.label_tensor()
    clean, measured = held_out.pixels(base.spec), dict[str, Any]()
    stamped = stamped_bytes(clean, stamp)
    measured["z_score"] = {}
    for tower, zero_shot, probed in ((model, "seen", "downstream"), (base, "base", "downstream_base")):
        prompts = class_prompts(tower, learned.class_names, template)
        features = [tower.image_features(pixels) for pixels in (clean, stamped)]
        answers = [(F.normalize(each, dim=-1) @ prompts.T).argmax(dim=1) for each in features]
        measured[zero_shot] = rates(*answers, labels, target)
        measured["z_score"][zero_shot] = z_score(features[1], features[0])
        weight = linear_probe(
            tower.image_features(learned.pixels(base.spec)), train_labels, len(learned.class_names)
        )
        answers = [probe_answers(weight, each) for each in features]
        measured[probed] = rates(*answers, labels, target)
    measured["seen"]["zero_shot_accuracy"] = measured["base"]["accuracy"]
    return measured
