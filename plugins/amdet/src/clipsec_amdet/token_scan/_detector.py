"""The detector: searches token sequences that work in the suspect alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from clipsec.models import same_text_tower
from clipsec.protocols import Context, Need
from clipsec.scheduler import Problem
from clipsec_amdet._plan import clean_reference
from clipsec_amdet._verdict import same_verdict
from clipsec_amdet.token_scan._calibration import shipped_units, strongest
from clipsec_amdet.token_scan._options import Options
from clipsec_amdet.token_scan._plan import make_plan
from clipsec_amdet.token_scan._scan import search
from clipsec_amdet.token_scan._verdict import make_verdict, nearest_captions

NO_REFERENCE = (
    "without the clean text tower that the suspect was made from nobody can tell a trigger from a word that "
    "means much: every token takes captions somewhere"
)


class TokenScan:
    """Ours, after a proposal for what AMDET cannot see: puts tokens into captions and looks for those that
    take all of them the same way in the suspect, and not in the reference.

    Beside the score it says the paired null: what the same search finds that works in the reference alone.
    """

    summary: ClassVar[str] = "trigger words of a text tower, by what tokens do to captions beside a reference"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = ()
    # The threshold was chosen by looking at the kit's textual toy, whose features share most of their
    # direction.
    conformance: ClassVar[Mapping[str, Any]] = {
        "detects": frozenset({"textual"}),
        "options": {"tokens": 100, "pool": 8, "beam": 4, "finalists": 2, "threshold": 0.3},
        "tolerance": 0.05,
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`.

        Raises `NotApplicableError` without a reference of the suspect's architecture, which the method needs
        although it is not among `needs`: so that the verdict can say what is lost.
        """
        reference = clean_reference(context, NO_REFERENCE)
        if same_text_tower(context.suspect.base, reference.base):
            return same_verdict()
        plan = make_plan(context)
        found = yield from search(plan, context.progress)
        best, score = strongest(found.suspect, shipped_units())
        near = (yield from nearest_captions(plan, best)) if score > plan.options.threshold else ()
        return make_verdict(context, plan, found, near)
