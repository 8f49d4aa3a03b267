"""One row of an exposure matrix: the interfaces with one trigger, on suspect, reference and hybrids."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import attrs

from clipsec.errors import ContractError
from clipsec.exposure import (
    Limits,
    branch_drift,
    encode_pictures,
    encode_texts,
    identical_branches,
    misfit,
    no_inputs,
    rate,
)
from clipsec.models import ZERO_SHOT_TEMPLATE, Suspect
from clipsec.protocols import READS, Context, Need, Readout
from clipsec.results import BranchDrift, Cell, Footprint, Label, Measurement, Rate, check_same_cases
from clipsec.runner._cells import Measured, cells_of_row, empty_cell, nothing_for, with_cases
from clipsec.runner._expose_inputs import AnyTrigger, identical_readout
from clipsec.runner._interfaces import Asked, ChosenInterface, conditions, watched
from clipsec.runner._interpolate import Place, interpolated_footprint
from clipsec.runner._swaps import (
    branch_footprint,
    failed_footprint,
    hybrids,
    mechanism_footprint,
    smallest_parts,
)
from clipsec.scheduler import Done, Problem, Scheduler
from clipsec.store import UnitStore, safe_name

DRIFT_INPUTS = 512
"""Most pictures and captions that the drift of a branch is measured on."""
SESSION = "expose"


@attrs.define(eq=False)
class Study:
    """What stays the same over the triggers, and the row of each."""

    base: Context
    chosen: list[ChosenInterface]
    scheduler: Scheduler
    asked: Asked
    role: str
    limits: Limits
    localise: bool
    on_progress: Callable[[float, str], None]
    indices: dict[str, bytes] = attrs.field(factory=dict)
    """Files of `pools/` to their content."""

    @property
    def suspect(self) -> Suspect:
        return self.base.suspect

    @property
    def reference(self) -> Suspect | None:
        return self.base.reference

    def drift(self) -> tuple[BranchDrift, ...]:
        """The screen before any trigger is looked at."""
        if self.reference is None or self.role != "named":
            return ()
        ours, theirs = self.suspect.base, self.reference.base
        mine, other = self.base, attrs.evolve(self.base, suspect=self.reference)
        found = []
        if ours.visual is not None and theirs.visual is not None:
            rows = range(min(DRIFT_INPUTS, 0 if self.base.held_out is None else len(self.base.held_out)))
            encodes = [encode_pictures(c, rows) if rows else no_inputs() for c in (mine, other)]
            found.append(branch_drift("visual", ours.visual, theirs.visual, *encodes))
        if ours.text is not None and theirs.text is not None:
            texts = self._captions()
            encodes = [encode_texts(c, texts) if texts else no_inputs() for c in (mine, other)]
            found.append(branch_drift("textual", ours.text, theirs.text, *encodes))
        return tuple(
            self.scheduler.run(watched(lambda p=p: p, self.asked), session=SESSION)  # type: ignore[misc]
            for p in found
        )

    def _captions(self) -> list[str]:
        names = [ZERO_SHOT_TEMPLATE.format(name) for name in self.suspect.class_names]
        given = () if self.base.captions is None else self.base.captions.texts
        return [*names, *given][:DRIFT_INPUTS]

    def row(self, position: int, of: int, trigger: AnyTrigger) -> tuple[list[Footprint], list[Cell]]:
        """One trigger: footprints first, then the cells of all interfaces."""
        context = attrs.evolve(self.base, trigger=trigger)
        running, cells = [], []
        for each in self.chosen:
            state, reason = nothing_for(each, trigger, self.base)
            if state is None:
                running.append(each)
            else:
                cells.append(empty_cell(each, position, trigger, state, reason))
        problems = list(self._problems(running, context))
        answers: dict[Hashable, Done] = {}
        total = max(1, len(problems))
        for done in self.scheduler.as_completed(problems, session=SESSION):
            answers[done.tag] = done
            name = str(done.tag[0]).rpartition("/")[2]  # type: ignore[index]
            self.on_progress((position + len(answers) / total) / of, name)
        footprints = self._footprints(position, running, context, answers)
        measured = [self._measured(each, answers) for each in running]
        row = cells_of_row(position, trigger, measured, self.limits, self.base.seed)
        order = {each.name: place for place, each in enumerate(self.chosen)}
        for cell, found in zip(row, measured, strict=True):
            named, content = with_cases(cell, trigger, found, self.base)
            cells.append(named)
            if content:
                self.indices[named.pools] = content
        return footprints, sorted(cells, key=lambda cell: order[cell.interface])

    def _measured(self, each: ChosenInterface, answers: Mapping[Hashable, Done]) -> Measured:
        """What came of an interface on suspect and reference."""
        suspect, reference = answers[each.name, "suspect"], answers.get((each.name, "reference"))
        error = suspect.error or (None if reference is None else reference.error)
        if error is not None:
            return Measured(each, error=error)
        pair, other = suspect.value, None if reference is None else reference.value
        try:
            check_same_cases([*pair, *(other or [])], each.name)
        except ContractError as broken:
            return Measured(each, error=broken)
        same = self.reference is not None and identical_readout(self.suspect, self.reference, each)
        return Measured(each, pair, other, identical=same)

    def _problems(
        self, running: Sequence[ChosenInterface], context: Context
    ) -> Iterator[tuple[tuple[str, str], Problem]]:
        """Every interface on the suspect and on the reference; one of them on the hybrids too."""
        both = (False, True)
        for each in running:
            of = self._of(each, context)
            yield (each.name, "suspect"), conditions(each, of, both, self.asked)
            if self.reference is None or not _can(self.reference, each):
                continue
            if not identical_readout(self.suspect, self.reference, each):
                theirs = attrs.evolve(of, suspect=self.reference)
                yield (each.name, "reference"), conditions(each, theirs, both, self.asked)
            if each is _swapped(running) and self._swap_misfit() == "":
                for name, model in hybrids(self.suspect, self.reference).items():
                    yield (
                        (each.name, name),
                        conditions(each, attrs.evolve(of, suspect=model), both, self.asked),
                    )
        for each in running:
            if each.card.readout is Readout.DELIVERED and self.suspect.prompts is not None:
                alone = Suspect(
                    name=f"{self.suspect.name}, zero-shot",
                    kind="clip",
                    base=self.suspect.base,
                    class_names=self.suspect.class_names,
                    device=self.suspect.device,
                )
                of = attrs.evolve(self._of(each, context), suspect=alone)
                yield (each.name, "zero-shot"), conditions(each, of, both, self.asked)

    @staticmethod
    def _of(each: ChosenInterface, context: Context) -> Context:
        """The context with the interface's options and a folder of its own."""
        folder = context.folder / safe_name(each.name)
        return attrs.evolve(context, options=each.options, folder=folder, units=UnitStore(folder / "units"))

    def _swap_misfit(self) -> str:
        if self.reference is None or self.role != "named":
            return "a branch swap needs the clean model: --reference"
        if len(identical_branches(self.suspect, self.reference)) == 2:
            return "both branches are the reference's own, bit for bit"
        return misfit(self.suspect, self.reference)

    def swap_note(self) -> tuple[str, ...]:
        """Why no branch was swapped although there is a clean model, if so."""
        reason = self._swap_misfit() if self.role == "named" else ""
        return (f"no branch was swapped: {reason}",) if reason else ()

    def _footprints(
        self,
        position: int,
        running: Sequence[ChosenInterface],
        context: Context,
        answers: Mapping[Hashable, Done],
    ) -> list[Footprint]:
        found: list[Footprint] = []
        trivial = () if self.reference is None else identical_branches(self.suspect, self.reference)
        each = _swapped(running)
        if each is not None and self.reference is not None and self._swap_misfit() == "":
            tags = [(each.name, f"a{v}{t}") for v in (0, 1) for t in (0, 1)]
            try:
                measured = {name: answers[interface, name].unwrap() for interface, name in tags}
                check_same_cases([m for pair in measured.values() for m in pair], each.name)
            except Exception as error:
                found.append(failed_footprint(position, each.name, error))
            else:
                mark = branch_footprint(position, each.name, measured, trivial, self.base.seed)
                if mark.label is Label.INVALID:
                    mark = self._interpolated(mark, each, context, measured)
                elif self.localise:
                    mark = self._localised(mark, each, context)
                found.append(mark)
        for one in running:
            if one.card.readout is not Readout.DELIVERED:
                continue
            pair = [answers.get((one.name, which)) for which in ("suspect", "zero-shot")]
            if all(done is not None and done.error is None for done in pair):
                values = [done.value for done in pair if done is not None]
                found.append(
                    mechanism_footprint(position, one.name, values[0], values[1], trivial, self.base.seed)
                )
        return found

    def _interpolated(
        self,
        mark: Footprint,
        each: ChosenInterface,
        context: Context,
        measured: Mapping[str, Sequence[Measurement]],
    ) -> Footprint:
        assert self.reference is not None
        of = self._of(each, context)

        def measure(models: Mapping[Place, Suspect]) -> dict[Place, list[Measurement]]:
            problems = [
                (place, conditions(each, attrs.evolve(of, suspect=model), (False, True), self.asked))
                for place, model in models.items()
            ]
            done = self.scheduler.as_completed(problems, session=SESSION)
            return {one.tag: one.unwrap() for one in done}  # type: ignore[misc]

        return interpolated_footprint(mark, self.suspect, self.reference, measured, measure, self.base.seed)

    def _localised(self, mark: Footprint, each: ChosenInterface, context: Context) -> Footprint:
        assert self.reference is not None
        of = self._of(each, context)

        def measure(model: Suspect) -> Rate:
            problem = conditions(each, attrs.evolve(of, suspect=model), (True,), self.asked)
            found: list[Measurement] = self.scheduler.run(problem, session=SESSION)
            return rate(found[0].events)

        parts, reached = smallest_parts(
            self.suspect, self.reference, mark.rates["a00"].value, mark.rates["a11"].value, measure
        )
        return attrs.evolve(mark, parts=parts, parts_rate=reached)


def _swapped(running: Sequence[ChosenInterface]) -> ChosenInterface | None:
    """The interface that branch swaps are diagnosed on: the first that says it is made for it."""
    return next((e for e in running if e.localises and e.card.readout is Readout.SCORE), None)


def _can(model: Suspect, each: ChosenInterface) -> bool:
    """Whether the model has what the interface reads; delivered prompts may be answered for zero-shot."""
    wanted = READS[each.card.readout] - {Need.PROMPT_HEAD}
    return wanted <= model.provides
