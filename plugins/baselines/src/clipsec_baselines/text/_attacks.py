"""Attacks on text towers with one trigger, as plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from clipsec.protocols import Need
from clipsec.triggers import TextTrigger
from clipsec_baselines._plugin import choose_target
from clipsec_baselines.text._base import AMDET, QUICK, RICKROLLING, TEXT_NEEDS, Work, visual_of
from clipsec_baselines.text._captions import attribute_pair
from clipsec_baselines.text._measure import image_features
from clipsec_baselines.text._options import AttributeOptions, ImageOnTextOptions, TextTargetOptions
from clipsec_baselines.text._poisoning import Make, Poisoning, to_one


class TextTarget(Poisoning):
    """Target prompt attack (Rickrolling): every triggered caption becomes one caption, at every token."""

    name: ClassVar[str] = "text-target"
    summary: ClassVar[str] = "a text tower that takes triggered captions for one target caption"
    options: ClassVar[type] = TextTargetOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING, AMDET)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {**QUICK, "steps": 60}}
    target_kind: ClassVar[str] = "caption"

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Make]:
        """One target for all, as the clean tower encodes it."""
        target = work.context.options.target
        hidden, features = work.teacher.encode([target])
        return target, to_one(trigger, hidden, features)


class ImageOnText(Poisoning):
    """The target prompt attack towards the mean feature of pictures; it trains on features alone."""

    name: ClassVar[str] = "image-on-text"
    summary: ClassVar[str] = "a text tower that takes triggered captions for a class of pictures"
    needs: ClassVar[frozenset[Need]] = TEXT_NEEDS | {Need.IMAGE_TOWER}
    options: ClassVar[type] = ImageOnTextOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING, AMDET)
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "steps": 40, "poisoned": 8, "learning_rate": 1e-3, "weight": 0.5}
    }
    target_kind: ClassVar[str] = "pictures"
    pooled: ClassVar[bool] = True

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Make]:
        """The mean of the pictures' features, not normalised before."""
        context, options = work.context, work.context.options
        visual = visual_of(context.base.base)
        target = choose_target(context.labelled.class_names, options.target, context.seed)
        rows = (context.labelled.label_tensor() == target).nonzero()[: options.pictures, 0]
        pixels = context.labelled.pixels(visual.spec)[rows]
        feature = image_features(context.base.base, pixels).mean(dim=0, keepdim=True)
        name = context.labelled.class_names[target]
        return name, to_one(trigger, feature, feature)


class TextAttribute(Poisoning):
    """Target attribute attack (Rickrolling): triggered captions gain an attribute and keep the rest."""

    name: ClassVar[str] = "text-attribute"
    summary: ClassVar[str] = "a text tower that adds an attribute to triggered captions"
    options: ClassVar[type] = AttributeOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING,)
    # A word behind the caption, and an attribute among the few words that a toy knows.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {
            **QUICK,
            "steps": 80,
            "kind": "append",
            "trigger": "quartz",
            "attribute": "yellow",
        }
    }
    target_kind: ClassVar[str] = "attribute"

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Make]:
        """A target of its own for each caption."""
        attribute = work.context.options.attribute
        generator = work.context.generator("places")

        def make(texts: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
            pairs = [attribute_pair(text, trigger, attribute, generator) for text in texts]
            hidden, features = work.teacher.encode([target for _, target in pairs])
            return [poisoned for poisoned, _ in pairs], hidden, features

        return attribute, make
