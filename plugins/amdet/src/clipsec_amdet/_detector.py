"""The detector: searches a target from several starts, tests it, decides once for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from clipsec.models import same_text_tower
from clipsec.protocols import Context, Need
from clipsec.scheduler import Gather, Problem
from clipsec_amdet._decode import decode
from clipsec_amdet._options import Options
from clipsec_amdet._plan import clean_reference, make_plan
from clipsec_amdet._search import Found, run_start
from clipsec_amdet._verdict import NO_REFERENCE, make_verdict, same_verdict


class Amdet:
    """AMDET (arXiv 2512.00343): a vector in a text tower's input that sends every prompt to one place, in a
    smooth basin, where a clean tower of the same architecture does not go, is a planted target."""

    summary: ClassVar[str] = "a planted target in a text tower, by inversion at its input embeddings"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = ("arXiv:2512.00343",)
    by_default: ClassVar[bool] = False
    """Until its thresholds are calibrated: the published ones find nothing on small towers."""
    # What clipsec-testkit is to run it with. Its textual toy has a target in the feature alone, hidden states
    # that share most of their direction, and vectors as short as width 32 makes them (10 sqrt(32 / 768) = 2).
    conformance: ClassVar[Mapping[str, Any]] = {
        "detects": frozenset({"textual"}),
        "options": {
            "positions": "end",
            "weight": 0.2,
            "same": 0.85,
            "different": 0.95,
            "reach": 2.0,
            "prompts": 100,
            "steps": 60,
            "stops": (),
            "points": 9,
            "directions": 2,
        },
        "tolerance": 0.05,
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`; each start is a unit of work of its own.

        Raises `NotApplicableError` without a reference of the suspect's architecture, which the method needs
        although it is not among `needs`: so that the verdict can say what is lost.
        """
        reference = clean_reference(context, NO_REFERENCE)
        if same_text_tower(context.suspect.base, reference.base):
            return same_verdict()
        plan = make_plan(context)
        tell = _Progress(context, plan.options.starts, plan.options.steps)
        problems = [
            (start, run_start(context, plan, start, tell.of(start))) for start in range(plan.options.starts)
        ]
        answers = yield Gather(problems, max_live=plan.options.starts)
        founds: list[Found] = [done.unwrap() for done in answers]
        flagged = [found for found in founds if found.decision.flagged]
        decoded = None
        if flagged:
            best = max(flagged, key=lambda found: found.decision.margin)
            decoded = yield from decode(context, plan, best.feature)
        return make_verdict(context, plan, founds, decoded)


class _Progress:
    """The updates of all starts together."""

    def __init__(self, context: Context, starts: int, steps: int) -> None:
        self._context, self._steps, self._done = context, steps, [0] * starts

    def of(self, start: int) -> Any:
        """What a start calls with the number of its updates so far."""

        def advance(updates: int) -> None:
            self._done[start] = updates
            share = sum(self._done) / (self._steps * len(self._done))
            self._context.progress(min(1.0, share), f"searching from {len(self._done)} starts")

        return advance
