"""Several backdoors in one text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from clipsec.triggers import TextTrigger
from clipsec_baselines.text._base import QUICK, RICKROLLING, Work
from clipsec_baselines.text._options import SeveralOptions
from clipsec_baselines.text._poisoning import Planting, Poisoning, to_one


class TextSeveral(Poisoning):
    """The target prompt attack (Rickrolling) with several triggers, each with a caption of its own as target.

    One card for each (`trigger/`, `trigger-2/` and so on), with what its own trigger does.
    """

    name: ClassVar[str] = "text-several"
    summary: ClassVar[str] = "a text tower with several triggers, each with a target caption of its own"
    options: ClassVar[type] = SeveralOptions
    references: ClassVar[tuple[str, ...]] = (RICKROLLING,)
    # Two tasks need more updates than one; the first target is that of `text-target`.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "steps": 120, "targets": ("a white teapot", "a blue boat on the water")}
    }
    target_kind: ClassVar[str] = "caption"

    def plantings(self, work: Work) -> Sequence[Planting]:
        """Every trigger with its target, as the clean tower encodes it."""
        options: SeveralOptions = work.context.options
        triggers = options.text_triggers()
        return [_planting(work, *each) for each in zip(triggers, options.targets, strict=True)]


def _planting(work: Work, trigger: TextTrigger, target: str) -> Planting:
    hidden, features = work.teacher.encode([target])
    return Planting(trigger, target, to_one(trigger, hidden, features))
