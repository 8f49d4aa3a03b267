"""The detector CLIP-Inspector-plus: probes, then perhaps the search, both against the clean base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from clipsec.errors import NotApplicableError
from clipsec.protocols import Context, Need
from clipsec.results import Artifact
from clipsec.scheduler import Problem
from clipsec_clip_inspector._decision import Decision
from clipsec_clip_inspector._detector import clean_predictions, search_classes
from clipsec_clip_inspector._evidence import save_probes
from clipsec_clip_inspector._plan import make_plan
from clipsec_clip_inspector._plus_decision import decide_plus
from clipsec_clip_inspector._plus_options import PlusOptions
from clipsec_clip_inspector._plus_verdict import make_plus_verdict
from clipsec_clip_inspector._probes import probes
from clipsec_clip_inspector._probing import Answers, ProbeResult, Probing, probed_rows
from clipsec_clip_inspector._score import ClassResult


class ClipInspectorPlus:
    """Stamps of whole families of triggers, tried on the suspect and on its clean base; with `search` also
    CLIP-Inspector's search for bounded perturbations, with the base as its null."""

    summary: ClassVar[str] = (
        "probes of four trigger families, with search=true also inversion, against the base"
    )
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.CLASS_NAMES, Need.IMAGE_POOL})
    options: ClassVar[type] = PlusOptions
    references: ClassVar[tuple[str, ...]] = ("arXiv:2604.09101",)
    # What clipsec-testkit is to run it with; its toys need a larger ball and have few pictures.
    conformance: ClassVar[Mapping[str, Any]] = {
        "detects": frozenset({"visual", "prompt"}),
        "options": {"search": True, "epsilon": 16 / 255, "epochs": 4, "learning_rate": 0.02},
        "tolerance": 0.05,
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`.

        Raises `NotApplicableError` without a clean base to compare with. The screening and each
        searched class are units of work of their own. Features of stamped pictures and the base's own
        searches are stored by content under `context.shared` and serve every suspect on the same base.
        """
        plan = make_plan(context)
        if plan.null is None:
            raise NotApplicableError(
                "there is no clean base to compare with",
                remedy="Give a clean model of the same kind with --reference, or name the detector "
                "clip-inspector, which then compares classes.",
            )
        options: PlusOptions = context.options
        library = probes(plan.pixels.shape[-1], options.families)
        rows = None if options.search else probed_rows(context, len(plan.pixels))
        clean = yield from clean_predictions(plan, plan.suspect, rows)
        base_clean = yield from clean_predictions(plan, plan.null, rows)
        progress = _Progress(context, len(library), plan.steps if options.search else 0)
        probing = Probing(context, plan, library, Answers(clean, base_clean[None]), progress.probed)
        probed: list[ProbeResult] = yield from probing.run()
        searched: Sequence[ClassResult | None] = [None] * len(probed)
        artifacts: dict[int, tuple[Artifact, ...]] = {}
        if options.search:
            searched, artifacts = yield from search_classes(
                context, plan, clean, base_clean, progress.searched
            )
        decision = decide_plus(probed, searched, threshold=options.threshold)
        by_name = {probe.name: probe for probe in library}
        for result in (probed[place] for place in _leaving_triggers(decision, probed)):
            answering = [by_name[name] for name in result.answering]
            if answering:
                found = save_probes(context, plan, result.index, answering)
                artifacts[result.index] = (*found, *artifacts.get(result.index, ()))
        return make_plus_verdict(plan, decision, probed, searched, artifacts)


def _leaving_triggers(decision: Decision, probed: Sequence[ProbeResult]) -> list[int]:
    """Places of the flagged classes and, beside one, of the next: a repair's control needs the trigger of a
    wrong class."""
    others = [place for place, probe in enumerate(probed) if probe.n and place not in decision.flagged]
    others.sort(key=lambda place: -decision.scores[place])
    return [*sorted(decision.flagged), *others[:1]] if decision.flagged else []


class _Progress:
    """Counts probes and updates and tells the context. A probe is rated as one update for each 32 of its
    pictures, forward only."""

    PROBE = 3

    def __init__(self, context: Context, probes: int, steps: int) -> None:
        self._tell: Callable[[float, str], None] = context.progress
        self._total, self._done = max(1, self.PROBE * probes + steps), 0

    def probed(self) -> None:
        self._add(self.PROBE, "probing")

    def searched(self, steps: int) -> None:
        self._add(steps, "inverting")

    def _add(self, steps: int, what: str) -> None:
        self._done += steps
        self._tell(min(1.0, self._done / self._total), what)
