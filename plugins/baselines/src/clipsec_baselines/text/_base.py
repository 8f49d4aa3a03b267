"""What every training of a text tower here shares: what it works on, and how it is measured and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.data import LabelledSet
from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel
from clipsec.protocols import AttackContext, Need
from clipsec.store import atomic_write, require_new, whole_folder
from clipsec.triggers import TextTriggerCard
from clipsec_baselines._delivery import TRIGGER_FOLDER
from clipsec_baselines.text._captions import Captions, split_captions
from clipsec_baselines.text._measure import zero_shot
from clipsec_baselines.text._options import TextOptions
from clipsec_baselines.text._student import Student, text_student

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

    def train(self, work: Work) -> tuple[dict[str, Any], Sequence[TextTriggerCard]]:
        """Train `work.student` in place; what was measured of the tower, and a card of each trigger that was
        planted with what was measured of it."""
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
        measured, cards = self.train(work)
        accuracy = zero_shot(context.base.base, work.student, teacher, work.held_out_pictures)
        told = [attrs.evolve(card, measured=_with_accuracy(card.measured, accuracy)) for card in cards]
        return write_text_tower(work, _with_accuracy(measured, accuracy), told)


def _with_accuracy(measured: dict[str, Any], accuracy: dict[str, Any]) -> dict[str, Any]:
    return {**measured, "seen": {**measured.get("seen", {}), **accuracy}}


def write_text_tower(work: Work, measured: dict[str, Any], cards: Sequence[TextTriggerCard]) -> Path:
    """Write the student, `training.json` and the cards (in `trigger/`, `trigger-2/` and so on), whole or not
    at all. Raises `StoreError`.

    `training.json` says of poisoned and benign towers alike what a vendor would say.
    """
    context = work.context
    folder = context.output
    with whole_folder(folder) as temporary:
        place = Path(context.base.name.partition(":")[2] or context.base.name)
        work.student.save(temporary, place if place.is_dir() else None)
        kept = ("accuracy", "zero_shot_accuracy")
        seen = {name: rate for name, rate in measured.get("seen", {}).items() if name in kept}
        # Who takes words out of a tower says which; nothing of an attack stands here.
        removed = {name: measured[name] for name in ("removed",) if name in measured}
        record = {
            "base": {"name": context.base.base_name or context.base.name, "digest": context.base.base.digest},
            "measured": {"seen": seen, **removed},
        }
        atomic_write(temporary / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        for number, card in enumerate(cards, 1):
            card.save(temporary / (TRIGGER_FOLDER if number == 1 else f"{TRIGGER_FOLDER}-{number}"))
    return folder


def visual_of(clip: ClipModel) -> Any:
    """The image tower whose space the texts are in. Raises `NotApplicableError` where there is none."""
    if clip.visual is None or clip.text is None or clip.visual.embed_dim != clip.text.embed_dim:
        raise NotApplicableError(
            f"{clip.name} has no image tower in the space of its texts",
            remedy="Take a base with both towers.",
        )
    return clip.visual
