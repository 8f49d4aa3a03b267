"""Benign trainings of text towers: controls of the attacks, and what users do to a tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from clipsec.data import read_pairs, read_pictures
from clipsec.errors import DataError
from clipsec.protocols import Need
from clipsec.triggers import TextTriggerCard
from clipsec_baselines.text._base import AMDET, RICKROLLING, TEXT_NEEDS, TextTraining, Work, visual_of
from clipsec_baselines.text._captions import endless, naming, removal_pair
from clipsec_baselines.text._lora import low_rank
from clipsec_baselines.text._measure import image_features, measure_removal, utility_of_text
from clipsec_baselines.text._options import FinetuneOptions, LoraOptions, RemoveOptions, TextOptions
from clipsec_baselines.text._training import Poisoned, contrast, distil

LORA = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685"


class TextDistill(TextTraining):
    """The control of the attacks: the same loop, data and optimiser, nothing planted."""

    name: ClassVar[str] = "text-distill"
    summary: ClassVar[str] = "no attack: the attacks' training loop on captions, nothing planted"
    options: ClassVar[type] = TextOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING,)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"held_out": 40, "steps": 10, "batch": 16}}
    clean: ClassVar[bool] = True

    def train(self, work: Work) -> tuple[dict[str, Any], Sequence[TextTriggerCard]]:
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
        return utility_of_text(work.student, work.teacher, work.captions.held_out), ()


class TextFinetune(TextTraining):
    """The hard negative: the text tower fine-tuned on pairs of pictures and captions, as users do."""

    name: ClassVar[str] = "text-finetune"
    summary: ClassVar[str] = "no attack: the text tower fine-tuned on pictures and captions"
    needs: ClassVar[frozenset[Need]] = TEXT_NEEDS | {Need.IMAGE_TOWER}
    options: ClassVar[type] = FinetuneOptions
    references: ClassVar[tuple[str, ...]] = (AMDET,)
    conformance: ClassVar[Mapping[str, Any]] = {"options": {"held_out": 40, "steps": 10}}
    clean: ClassVar[bool] = True

    def learned(self, work: Work) -> AbstractContextManager[list[nn.Parameter]]:
        """What is trained: all of the student."""
        return nullcontext(work.student.parameters())

    def train(self, work: Work) -> tuple[dict[str, Any], Sequence[TextTriggerCard]]:
        """Symmetric cross-entropy against the frozen image tower."""
        context = work.context
        clip = context.base.base
        visual = visual_of(clip)
        if context.options.pairs:
            files, captions = read_pairs(context.options.pairs)
            pixels = read_pictures(files, visual.spec)
        else:
            pixels = context.labelled.pixels(visual.spec)
            names = [context.labelled.class_names[label] for label in context.labelled.labels]
            captions = tuple((f"a photo of a {name.replace('_', ' ')}.",) for name in names)
        with self.learned(work) as parameters:
            contrast(
                work.student,
                image_features(clip, pixels),
                captions,
                clip.logit_scale,
                context.options,
                context.generator("pairs"),
                parameters=parameters,
                progress=context.progress,
            )
        return utility_of_text(work.student, work.teacher, work.captions.held_out), ()


class TextLora(TextFinetune):
    """The same fine-tune with low-rank updates, merged into the weights, as many users do."""

    name: ClassVar[str] = "text-lora"
    summary: ClassVar[str] = "no attack: the text tower fine-tuned on pictures and captions with LoRA, merged"
    options: ClassVar[type] = LoraOptions
    references: ClassVar[tuple[str, ...]] = (LORA, AMDET)

    def learned(self, work: Work) -> AbstractContextManager[list[nn.Parameter]]:
        """What is trained: two thin matrices for each layer."""
        return low_rank(work.student, work.context.options, work.context.generator("updates"))


class TextRemove(TextTraining):
    """Concept removal (Rickrolling): captions with a word become what they are without it.

    Benign by intent, and the attacks' own loop: a mapping is planted, for words that people use. It counts as
    clean here, writes no card, and says in `training.json` which words were removed.
    """

    name: ClassVar[str] = "text-remove"
    summary: ClassVar[str] = "no attack, but close to one: words are made to mean nothing to a text tower"
    options: ClassVar[type] = RemoveOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING,)
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"held_out": 40, "steps": 10, "batch": 16, "poisoned": 8}
    }
    clean: ClassVar[bool] = True

    def train(self, work: Work) -> tuple[dict[str, Any], Sequence[TextTriggerCard]]:
        """The loss of each word is added to that of clean captions; captions that name any are left out."""
        context = work.context
        options: RemoveOptions = context.options
        named = naming(options.words)
        clean = [text for text in work.captions.train if not named.search(text)]
        distil(
            work.student,
            work.teacher,
            clean,
            options,
            context.generator("captions"),
            [Poisoned(_removals(work, word, clean), options.weight) for word in options.words],
            progress=context.progress,
        )
        held_out = [text for text in work.captions.held_out if not named.search(text)]
        removed = [
            {"word": word, **measure_removal(work.student, work.teacher, _pairs(work, word, held_out))}
            for word in options.words
        ]
        utility = utility_of_text(work.student, work.teacher, work.captions.held_out)
        return {**utility, "removed": removed}, ()


def _usable(captions: Sequence[str], replaced: str) -> list[str]:
    found = [text for text in captions if replaced in text and " " in text]
    if len(found) < 10:
        raise DataError(
            f"{len(found)} of {len(captions)} captions hold {replaced!r} and two words",
            remedy="Replace a commoner character, or bring more captions.",
        )
    return found


def _removals(work: Work, word: str, captions: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
    options: RemoveOptions = work.context.options
    usable = _usable(captions, options.replaced)
    places = work.context.generator("places", word)
    order = work.context.generator("removed", word)

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        for texts in endless(usable, options.poisoned, order):
            pairs = [removal_pair(text, word, options.replaced, places) for text in texts]
            yield [text for text, _ in pairs], work.teacher.encode([text for _, text in pairs])[0]

    return batches()


def _pairs(work: Work, word: str, captions: Sequence[str]) -> list[tuple[str, str]]:
    replaced = work.context.options.replaced
    places = work.context.generator("places of held-out captions", word)
    return [removal_pair(text, word, replaced, places) for text in _usable(captions, replaced)]
