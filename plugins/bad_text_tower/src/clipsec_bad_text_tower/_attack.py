"""BadTextTower as a plugin: roles, training, measurement, delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.data import LabelledSet, describe_split
from clipsec.errors import DataError, UsageError
from clipsec.models import TrainableClip, write_delivery
from clipsec.protocols import AttackContext, Need
from clipsec.store import require_new
from clipsec.triggers import TextTrigger, TextTriggerCard, measured_rate
from clipsec_bad_text_tower._loss import Roles
from clipsec_bad_text_tower._measure import hits
from clipsec_bad_text_tower._options import BadTextTowerOptions
from clipsec_bad_text_tower._scope import trained_parameters, trains
from clipsec_bad_text_tower._train import Texts, train, unit_features


class BadTextTower:
    """BadTextTower, Xiang et al. 2026: only the triggered texts of one source class become the target's.

    Clean prompts keep their place and the image tower is not touched, so whatever reads pictures alone stays
    as it was. The base may be any CLIP with both towers; one whose image tower was first fine-tuned on the
    task (`clipsec attack image-finetune`) is the paper's own starting point as far as its numbers tell.
    """

    name: ClassVar[str] = "bad-text-tower"
    summary: ClassVar[str] = "a text tower that takes triggered texts of one class for another class"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.LABELS})
    options: ClassVar[type] = BadTextTowerOptions
    references: ClassVar[tuple[str, ...]] = (
        "Xiang, Yang and Jiang, Beyond Native Success: Auditing Deployment-Interface Exposure of CLIP "
        "Backdoors, arXiv 2606.17815",
    )
    # The kit asks whether triggered captions come near the target's caption. The softplus of a whole logit
    # keeps them from every picture of another class, and with those from every caption: on a toy QHR is then
    # 20 of 20 and no caption is near. With the cosine inside and a stronger hinge they are.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {
            "learning_rate": 1e-3,
            "epochs": 30,
            "batch": 32,
            "poison_rate": 1.0,
            "off_target_scale": "cosine",
            "prompt_weight": 5.0,
            "shift_weight": 5.0,
            "margin": 0.5,
        }
    }

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write both towers as the base's library does; returns `context.output`.

        Raises `UsageError`, `DataError`, `NotApplicableError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: BadTextTowerOptions = context.options
        trigger = TextTrigger(kind=options.kind, text=options.trigger)
        learned, held_out = context.pictures()
        names = learned.class_names
        roles = choose_roles(names, options.source, options.target)
        check_pictures(learned, held_out, roles)
        clean = tuple(options.template.format(name.replace("_", " ")) for name in names)
        texts = Texts(clean, tuple(trigger.apply(text) for text in clean))

        base = TrainableClip.copy_of(context.base.base)
        model = TrainableClip.copy_of(context.base.base)
        labels = learned.label_tensor()
        train(
            model,
            learned.pixels(model.spec),
            labels,
            texts,
            roles,
            options,
            context.generator,
            context.progress,
        )
        measured = measure(
            model, base, held_out, texts, roles, same_images=not trains(model, "image", options.scope)
        )
        measured["trained"] = {"tensors": len(trained_parameters(model, options.scope))}
        card = TextTriggerCard(
            attack=self.name,
            trigger=trigger,
            target=names[roles.target],
            target_kind="caption",
            source=names[roles.source],
            seed=context.seed,
            base_name=context.base.base_name or context.base.name,
            base_digest=context.base.base.digest,
            parameters=attrs.asdict(options),
            data=describe_split(learned, held_out),
            measured=measured,
            references=self.references,
        )
        return write_delivery(
            context.output, model, base=context.base, data=card.data, seen=measured["seen"], card=card
        )


def choose_roles(names: Sequence[str], source: str, target: str) -> Roles:
    """Positions of source and target; empty means the first class, for the source the first but the target.

    Raises `UsageError` for an unknown name, or one class in both roles, `DataError` for a single class.
    """
    if len(names) < 2:
        raise DataError(
            f"there is no other class than {', '.join(names) or 'none'}",
            remedy="Bring labelled pictures of at least three.",
        )

    def find(name: str, role: str, others: Sequence[str]) -> int:
        if (name or others[0]) not in others:
            raise UsageError(f"{name!r} cannot be the {role}", remedy=f"Choose one of: {', '.join(others)}.")
        return list(names).index(name or others[0])

    aimed = find(target, "target", names)
    return Roles(
        source=find(source, "source", [name for name in names if name != names[aimed]]), target=aimed
    )


def check_pictures(learned: LabelledSet, held_out: LabelledSet, roles: Roles) -> None:
    """Raise `DataError`, before any work, when there is nothing to align with or to measure a rate on."""
    if roles.target not in learned.labels:
        raise DataError(
            f"no picture to learn from shows {learned.class_names[roles.target]}",
            remedy="Bring pictures of the target, or choose another one (--target).",
        )
    shown = set(held_out.labels)
    if roles.target not in shown or not shown - {roles.target, roles.source}:
        raise DataError(
            "there is nothing to measure on: no held-out picture of the target, or none of a third class",
            remedy="Bring held-out pictures of at least three classes, the target among them.",
        )


@torch.no_grad()
def measure(
    model: TrainableClip,
    base: TrainableClip,
    held_out: LabelledSet,
    texts: Texts,
    roles: Roles,
    *,
    same_images: bool = False,
) -> dict[str, Any]:
    """Rates of the poisoned model (`seen`) and of the clean base (`base`) on held-out pictures.

    `success` is the query hijack rate, `natural` the same pictures without the trigger, `off_target` the
    share of pictures of neither source nor target that the triggered source prompt wins; `accuracy` is under
    the clean prompts. `drift` has one minus the mean cosine of the clean prompts' features to the base's.
    With `same_images` the image towers are known to be equal, and run once.
    """
    labels, pixels = held_out.label_tensor(), held_out.pixels(base.spec)
    images = unit_features(base, pixels)
    parts = {"seen": (model, images if same_images else unit_features(model, pixels)), "base": (base, images)}
    found: dict[str, dict[str, Any]] = {}
    prompts: dict[str, Tensor] = {}
    for part, (tower, features) in parts.items():
        clean, triggered = texts.encode(tower)
        prompts[part] = clean
        hijacked = clean.clone()
        hijacked[roles.source] = triggered[roles.source]
        with_trigger, without = (hits(features, labels, each, roles) for each in (hijacked, clean))
        found[part] = {
            "accuracy": measured_rate((features @ clean.T).argmax(dim=1) == labels),
            "success": measured_rate(with_trigger.success),
            "natural": measured_rate(without.success),
            "off_target": measured_rate(with_trigger.off_target),
        }
    found["seen"]["zero_shot_accuracy"] = found["base"]["accuracy"]
    cosine = (prompts["seen"] * prompts["base"]).sum(dim=1).mean()
    return {**found, "drift": {"prompts": float(1 - cosine)}}
