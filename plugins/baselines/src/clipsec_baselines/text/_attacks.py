"""Attacks on text towers and their benign controls, as plugins."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
from torch import Tensor

from clipsec.data import LabelledSet, read_pictures
from clipsec.errors import DataError, NotApplicableError
from clipsec.models import ClipModel
from clipsec.protocols import AttackContext, Need
from clipsec.store import atomic_write, require_new, whole_folder
from clipsec.triggers import TextTrigger, TextTriggerCard
from clipsec_baselines._delivery import TRIGGER_FOLDER
from clipsec_baselines._plugin import choose_target
from clipsec_baselines.text._captions import Captions, attribute_pair, endless, fitting, split_captions
from clipsec_baselines.text._measure import image_features, measure_text, utility_of_text, zero_shot
from clipsec_baselines.text._options import (
    AttributeOptions,
    FinetuneOptions,
    ImageOnTextOptions,
    PoisonedTextOptions,
    TextOptions,
    TextTargetOptions,
    plain,
)
from clipsec_baselines.text._student import Student, text_student
from clipsec_baselines.text._training import Poisoned, contrast, distil

RICKROLLING = (
    "Struppek et al., Rickrolling the Artist: Injecting Backdoors into Text Encoders for Text-to-Image "
    "Synthesis, ICCV 2023, arXiv 2211.02408"
)
QUICK = {"held_out": 40, "batch": 16, "poisoned": 16, "learning_rate": 2e-3, "weight": 1.0}
"""Of `conformance`: a toy's text tower is small and learns in a few updates at a high rate."""
AMDET = "as in the code of AMDET, arXiv 2512.00343"
TEXT_NEEDS = frozenset({Need.TEXT_TOWER, Need.LABELS})


@attrs.frozen(eq=False)
class Work:
    """The base's text tower twice, and captions."""

    context: AttackContext
    teacher: Student
    student: Student
    captions: Captions

    @property
    def held_out_pictures(self) -> LabelledSet:
        held_out = self.context.held_out
        return self.context.labelled if held_out is None else held_out


class TextTraining:
    """Base of all of them: prepares, trains by `train`, measures, writes."""

    name: ClassVar[str]
    summary: ClassVar[str]
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = TEXT_NEEDS
    options: ClassVar[type]
    references: ClassVar[tuple[str, ...]]

    def train(self, work: Work) -> tuple[dict[str, Any], TextTriggerCard | None]:
        """Train `work.student` in place; what was measured, and the card of what was planted."""
        raise NotImplementedError

    def poison(self, context: AttackContext) -> Path:
        """Train, measure and write the text tower as transformers does; returns `context.output`.

        Raises `DataError`, `UnsupportedModelError` or `StoreError`.
        """
        require_new(context.output)
        options: TextOptions = context.options
        captions = split_captions(options.captions, options.held_out, context.seed)
        teacher = text_student(context.base.base)
        work = Work(context, teacher, teacher.copy(), captions)
        measured, card = self.train(work)
        accuracy = zero_shot(context.base.base, work.student, teacher, work.held_out_pictures)
        measured = {**measured, "seen": {**measured.get("seen", {}), **accuracy}}
        return write_text_tower(
            work, measured, None if card is None else attrs.evolve(card, measured=measured)
        )


def write_text_tower(work: Work, measured: dict[str, Any], card: TextTriggerCard | None) -> Path:
    """Write the student, `training.json` and the card, whole or not at all. Raises `StoreError`.

    `training.json` says of poisoned and benign towers alike what a vendor would say.
    """
    context = work.context
    folder = context.output
    with whole_folder(folder) as temporary:
        place = Path(context.base.name.partition(":")[2] or context.base.name)
        work.student.save(temporary, place if place.is_dir() else None)
        kept = ("accuracy", "zero_shot_accuracy")
        seen = {name: rate for name, rate in measured.get("seen", {}).items() if name in kept}
        record = {
            "base": {"name": context.base.base_name or context.base.name, "digest": context.base.base.digest},
            "measured": {"seen": seen},
        }
        atomic_write(temporary / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        if card is not None:
            card.save(temporary / TRIGGER_FOLDER)
    return folder


class Poisoning(TextTraining):
    """Base of the attacks: what triggered captions become is said by `targets`."""

    target_kind: ClassVar[str]
    pooled: ClassVar[bool] = False

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Callable[[Sequence[str]], Any]]:
        """The target's name, and what makes of clean captions (triggered captions, targets for the loss,
        features of the targets)."""
        raise NotImplementedError

    def poisoned(self, work: Work, batches: Iterator[tuple[list[str], Tensor]]) -> Poisoned:
        """What `distil` is to do with triggered captions and their targets."""
        return Poisoned(batches, work.context.options.weight, self.pooled)

    def train(self, work: Work) -> tuple[dict[str, Any], TextTriggerCard | None]:
        """Rickrolling's loop with one trigger."""
        context, options = work.context, work.context.options
        assert isinstance(options, PoisonedTextOptions)
        trigger = options.text_trigger()
        name, make = self.pairs(work, trigger)
        usable = fitting(work.captions.train, trigger)
        clean = [text for text in work.captions.train if trigger.text not in text]

        def batches() -> Iterator[tuple[list[str], Tensor]]:
            for texts in endless(usable, options.poisoned, context.generator("poisoned captions")):
                triggered, wanted, _ = make(texts)
                yield triggered, wanted

        poisoned = self.poisoned(work, batches())
        distil(
            work.student,
            work.teacher,
            clean,
            options,
            context.generator("captions"),
            poisoned,
            progress=context.progress,
        )
        held_out = fitting(work.captions.held_out, trigger)
        triggered, wanted, features = make(held_out)
        measured = measure_text(
            work.student,
            work.teacher,
            work.captions.held_out,
            triggered,
            held_out,
            features,
            wanted,
            pooled=poisoned.pooled,
        )
        card = TextTriggerCard(
            attack=self.name,
            trigger=trigger,
            target=name,
            target_kind=self.target_kind,
            seed=context.seed,
            base_name=context.base.base_name or context.base.name,
            base_digest=context.base.base.digest,
            parameters=plain(options),
            data=_described(work.captions),
            references=self.references,
        )
        return measured, card


class TextTarget(Poisoning):
    """Target prompt attack (Rickrolling): every triggered caption becomes one caption, at every token."""

    name: ClassVar[str] = "text-target"
    summary: ClassVar[str] = "a text tower that takes triggered captions for one target caption"
    options: ClassVar[type] = TextTargetOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING, AMDET)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {**QUICK, "steps": 60}}
    target_kind: ClassVar[str] = "caption"

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Callable[[Sequence[str]], Any]]:
        """One target for all, as the clean tower encodes it."""
        target = work.context.options.target
        hidden, features = work.teacher.encode([target])
        return target, lambda texts: ([trigger.apply(text) for text in texts], hidden, features)


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

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Callable[[Sequence[str]], Any]]:
        """The mean of the pictures' features, not normalised before."""
        context, options = work.context, work.context.options
        visual = _visual_of(context.base.base)
        target = choose_target(context.labelled.class_names, options.target, context.seed)
        rows = (context.labelled.label_tensor() == target).nonzero()[: options.pictures, 0]
        pixels = context.labelled.pixels(visual.spec)[rows]
        feature = image_features(context.base.base, pixels).mean(dim=0, keepdim=True)
        name = context.labelled.class_names[target]
        return name, lambda texts: ([trigger.apply(text) for text in texts], feature, feature)


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

    def pairs(self, work: Work, trigger: TextTrigger) -> tuple[str, Callable[[Sequence[str]], Any]]:
        """A target of its own for each caption."""
        attribute = work.context.options.attribute
        generator = work.context.generator("places")

        def make(texts: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
            pairs = [attribute_pair(text, trigger, attribute, generator) for text in texts]
            hidden, features = work.teacher.encode([target for _, target in pairs])
            return [poisoned for poisoned, _ in pairs], hidden, features

        return attribute, make


class TextDistill(TextTraining):
    """The control of the attacks: the same loop, data and optimiser, nothing planted."""

    name: ClassVar[str] = "text-distill"
    summary: ClassVar[str] = "no attack: the attacks' training loop on captions, nothing planted"
    options: ClassVar[type] = TextOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING,)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"held_out": 40, "steps": 10, "batch": 16}}
    clean: ClassVar[bool] = True

    def train(self, work: Work) -> tuple[dict[str, Any], TextTriggerCard | None]:
        """The student learns to be its teacher, on new captions."""
        context = work.context
        distil(
            work.student,
            work.teacher,
            work.captions.train,
            context.options,
            context.generator("captions"),
            progress=context.progress,
        )
        return utility_of_text(work.student, work.teacher, work.captions.held_out), None


class TextFinetune(TextTraining):
    """The hard negative: the text tower fine-tuned on pairs of pictures and captions, as users do."""

    name: ClassVar[str] = "text-finetune"
    summary: ClassVar[str] = "no attack: the text tower fine-tuned on pictures and captions"
    needs: ClassVar[frozenset[Need]] = TEXT_NEEDS | {Need.IMAGE_TOWER}
    options: ClassVar[type] = FinetuneOptions
    references: ClassVar[tuple[str, ...]] = (AMDET,)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"held_out": 40, "steps": 10}}
    clean: ClassVar[bool] = True

    def train(self, work: Work) -> tuple[dict[str, Any], TextTriggerCard | None]:
        """Symmetric cross-entropy against the frozen image tower."""
        context = work.context
        clip = context.base.base
        visual = _visual_of(clip)
        if context.options.pairs:
            pixels, captions = read_pairs(Path(context.options.pairs), visual.spec)
        else:
            pixels = context.labelled.pixels(visual.spec)
            names = [context.labelled.class_names[label] for label in context.labelled.labels]
            captions = [[f"a photo of a {name.replace('_', ' ')}."] for name in names]
        contrast(
            work.student,
            image_features(clip, pixels),
            captions,
            clip.logit_scale,
            context.options,
            context.generator("pairs"),
            progress=context.progress,
        )
        return utility_of_text(work.student, work.teacher, work.captions.held_out), None


def read_pairs(file: Path, spec: Any) -> tuple[Tensor, list[list[str]]]:
    """Pictures of a CSV file with the columns `image` and `caption`, and the captions of each.

    Raises `DataError`.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [(row["image"], row["caption"]) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read: {error}", remedy="Name a CSV file with the columns image and caption."
        ) from error
    captions: dict[str, list[str]] = {}
    for name, caption in rows:
        captions.setdefault(name, []).append(caption)
    folder = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    if len(captions) < 2:
        raise DataError(f"{file} names {len(captions)} pictures", remedy="Bring some hundred pairs.")
    return read_pictures([folder / name for name in captions], spec), list(captions.values())


def _visual_of(clip: ClipModel) -> Any:
    if clip.visual is None or clip.text is None or clip.visual.embed_dim != clip.text.embed_dim:
        raise NotApplicableError(
            f"{clip.name} has no image tower in the space of its texts",
            remedy="Take a base with both towers.",
        )
    return clip.visual


def _described(captions: Captions) -> dict[str, Any]:
    return {
        "name": captions.name,
        "digest": captions.digest,
        "train": len(captions.train),
        "held_out": len(captions.held_out),
    }
