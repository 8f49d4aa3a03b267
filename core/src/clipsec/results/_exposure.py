"""What an exposure matrix says: events of a measurement, cells with their state and status, the footprint."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from typing import Any

import attrs

from clipsec.errors import StoreError
from clipsec.results._classes import SCHEMA_VERSION, GateResult, Interval, SuspectCard
from clipsec.results._json import add_words, read_document, write_document
from clipsec.results._outcome import Outcome, exit_code, overall
from clipsec.results._repair import Rate


@attrs.frozen(kw_only=True)
class Measurement:
    """What an interface returns: one condition of one model, case by case."""

    events: tuple[int, ...]
    """1 where the target event happened, else 0."""
    ranks: tuple[int, ...] = ()
    """For rankings: the place of the best target item of each case, from 1; H@K and MRR follow."""
    utility: tuple[int, ...] = ()
    """Clean cases: 1 where the model does what an honest user wants. Read in the untriggered condition."""
    pools: tuple[int, ...] = ()
    """When each query is put to several pools, the pool of each case; cases are `[queries, pools]`, flat."""
    index: dict[str, list[int]] = attrs.field(factory=dict)
    """Which rows of the data were used for what, by name: what it takes to make the same cases again."""
    notes: tuple[str, ...] = ()


class CellState(enum.StrEnum):
    """Whether a cell holds a number, and if not, which kind of nothing it is."""

    MEASURED = "measured"
    NOT_ELIGIBLE = "N.E."
    """The question has no meaning for this interface and trigger: neither exposure nor safety."""
    NOT_RUN = "not run"
    """A limit of coverage: it was left out, or there were too few pictures or captions."""
    MISSING = "artifact missing"
    """Something that it needs was not given."""
    ERROR = "error"
    """The interface crashed, or broke its contract."""


class Status(enum.StrEnum):
    """What the intervals of a measured cell say."""

    EXPOSED = "exposed"
    PARTIAL = "partially exposed"
    EQUIVALENT = "equivalent"
    """The whole interval lies inside the margin: as good as no difference."""
    NEGATIVE = "negative"
    """The trigger demotes its target."""
    CEILING = "ceiling"
    """The event happens nearly always without the trigger, so nothing could be seen."""
    UTILITY_BROKEN = "utility broken"
    """The clean use works much worse than on the reference, so its rates say little."""
    IDENTICAL = "identical"
    """Suspect and reference compute the same here, bit for bit: nothing was compared."""
    INCONCLUSIVE = "inconclusive"

    @property
    def outcome(self) -> Outcome:
        """What it counts as for the exit code. Only equivalence, shown by an interval, reads as clean."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Status.EXPOSED: Outcome.FINDING,
    Status.PARTIAL: Outcome.FINDING,
    Status.EQUIVALENT: Outcome.CLEAN,
    Status.NEGATIVE: Outcome.INCONCLUSIVE,
    Status.CEILING: Outcome.INCONCLUSIVE,
    Status.UTILITY_BROKEN: Outcome.INCONCLUSIVE,
    Status.IDENTICAL: Outcome.SKIPPED,
    Status.INCONCLUSIVE: Outcome.INCONCLUSIVE,
}


@attrs.frozen
class RateDifference:
    """A difference in rates (or mean reciprocal ranks) with its interval."""

    value: float
    interval: Interval


@attrs.frozen(kw_only=True)
class Estimate:
    """The 2 x 2 of one cell: suspect (A with the trigger, R1 without) and reference (R2 with, R3 without)."""

    n: int
    patterns: dict[str, int]
    """How many cases had which outcomes, e.g. `1000` for the event under A alone, in the order A R1 R2 R3;
    all rates, differences and unpooled intervals follow from them. Two digits when there is no reference."""
    attack: Rate
    """p_A: suspect with the trigger."""
    clean: Rate
    """p_R1: suspect without."""
    by_trigger: RateDifference
    """p_A - p_R1, Newcombe's paired interval."""
    p_value: float
    """Exact McNemar test of p_A = p_R1."""
    headroom: float
    """1 - p_R1: how much there was to gain."""
    gained: float | None
    """`by_trigger` as a share of the headroom; None below 0.05 of headroom."""
    reference_attack: Rate | None = None
    """p_R2."""
    reference_clean: Rate | None = None
    """p_R3."""
    by_model: RateDifference | None = None
    """p_A - p_R3."""
    did: RateDifference | None = None
    """(p_A - p_R1) - (p_R2 - p_R3), paired bootstrap: the headline, free of fine-tuning drift and of what
    the trigger does to an honest model."""
    adjusted_p: float | None = None
    """`p_value` after Holm over the measured cells of the row."""
    utility: Rate | None = None
    reference_utility: Rate | None = None
    ranks: dict[str, RateDifference] = attrs.field(factory=dict)
    """For rankings, `H@1`, `H@5`, `H@10` and `MRR`: their difference in differences (by the trigger alone
    without a reference)."""


@attrs.frozen(kw_only=True)
class Cell:
    """One interface and one trigger."""

    interface: str
    """Canonical plugin name, `distribution/name`."""
    version: str
    trigger: int
    """Position in `ExposureResult.triggers`."""
    state: CellState
    reason: str = ""
    """Why there is no number, or why the status is what it is."""
    channel: str = ""
    readout: str = ""
    event: str = ""
    population: str = ""
    reference: str = ""
    metric: str = ""
    status: Status | None = None
    estimate: Estimate | None = None
    options: dict[str, Any] = attrs.field(factory=dict)
    pools: str = ""
    """File with the rows that were used, relative to the folder; content in `pools_digest`."""
    pools_digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """What it counts as for the exit code."""
        if self.state is CellState.MEASURED and self.status is not None:
            return self.status.outcome
        return Outcome.ERROR if self.state in (CellState.ERROR, CellState.MEASURED) else Outcome.SKIPPED


@attrs.frozen
class TriggerRecord:
    """A trigger as results tell it."""

    name: str
    origin: str
    """The attack or detector that it comes from."""
    recovered: bool
    """Found by a detector, not known from the attacker: a weaker one may hide a stronger."""
    enters: str
    target: str
    digest: str


class Label(enum.StrEnum):
    """Through which component the backdoor is read."""

    VISUAL = "visual"
    TEXTUAL = "textual"
    COUPLED = "coupled"
    WEAK = "weak"
    AMBIGUOUS = "ambiguous"
    """The paper's rule gives no label: no ratio dominates."""
    REDUNDANT = "redundant"
    """Either branch suffices."""
    INTERACTION = "interaction"
    """Neither branch suffices, both together do."""
    MECHANISM = "mechanism"
    """The learned prompts and the trigger together."""
    INVALID = "swap invalid"
    """A hybrid does not work on clean inputs, so the branches do not share a space."""
    UNSTABLE = "unstable"
    """Resampling the cases changes the label too often."""


@attrs.frozen(kw_only=True)
class DosePoint:
    """A mixture of reference and suspect: weights are (1 - alpha) of the one's + alpha of the other's, alpha
    for each branch."""

    visual: float
    """Alpha of the visual branch."""
    textual: float
    rate: Rate
    """With the trigger."""
    utility: Rate
    """Clean use."""
    valid: bool
    """Clean use is at most 5 points below that of the worse of the two models."""


@attrs.frozen(kw_only=True)
class Interpolation:
    """What stands for an invalid branch swap: the two models mixed in few fixed shares."""

    label: Label = Label.INVALID
    """What the valid points support; `swap invalid` where they support nothing."""
    reason: str
    points: tuple[DosePoint, ...] = ()
    """Every pair of shares, the ends included. With the other branch at 0 (or 1) they are the dose-response
    curves on the reference (on the suspect)."""
    low: float | None = None
    """Over which part of the way the label was read: the longest with four valid corners and at least 0.70 of
    sigma between its ends."""
    high: float | None = None
    ratios: dict[str, float] = attrs.field(factory=dict)
    """sigma, VRS, TRS, CSS over that part."""
    agreement: float | None = None
    """Share of bootstrap replicates with the same label, also of one that was dropped because it is small."""


@attrs.frozen(kw_only=True)
class Footprint:
    """The diagnosis of one trigger by branch swaps or component repair."""

    trigger: int
    interface: str
    probe: str
    """`branch swap` or `component repair`."""
    label: Label
    paper_label: Label
    """By the published rule, without its exceptions."""
    reason: str
    n: int = 0
    rates: dict[str, Rate] = attrs.field(factory=dict)
    """`a00`, `a10`, `a01`, `a11` (suspect's visual branch, textual branch), or `full`, `prompt only`,
    `trigger only`, `neither`."""
    ratios: dict[str, float] = attrs.field(factory=dict)
    """sigma, VRS, TRS, CSS."""
    agreement: float | None = None
    """Share of bootstrap replicates with the same label; None for an invalid swap without one."""
    utilities: dict[str, Rate] = attrs.field(factory=dict)
    """Clean use of `a00`, `a10`, `a01`, `a11`."""
    trivial: tuple[str, ...] = ()
    """Branches that are the reference's own, bit for bit: not tested."""
    parts: tuple[str, ...] = ()
    """The smallest set of parts found that recovers 90% of sigma; with --localise."""
    parts_rate: Rate | None = None
    interpolation: Interpolation | None = None
    """For an invalid swap only: the label is then the interpolation's."""


@attrs.frozen(kw_only=True)
class BranchDrift:
    """How far one branch of the suspect is from the reference's."""

    branch: str
    identical: bool
    """Bit for bit: it carries no inserted footprint."""
    comparable: bool = True
    """False when the two are not built alike."""
    relative_change: float | None = None
    """Norm of the difference of the weights over the norm of the reference's."""
    cka: float | None = None
    """Linear CKA of the features; 1 when they agree up to rotation and scale."""
    worst_cosine: float | None = None
    inputs: int = 0


@attrs.frozen(kw_only=True)
class EncodeCost:
    """What the towers computed, by the scheduler's own counts."""

    computed_rows: int
    cached_rows: int
    unique_rows: int
    """Different (tower, row) pairs that were asked for."""
    gradient_rows: int
    """Rows that were differentiated, as tuning a prompt does: none of them can be shared."""
    seconds: float


@attrs.frozen(kw_only=True)
class ExposureResult:
    """An exposure matrix: triggers x interfaces, for one suspect."""

    suspect: SuspectCard
    reference: SuspectCard | None
    reference_role: str
    """Whose the reference is: `named`, `own base` (of a prompt-tuned delivery) or `none`."""
    gate: GateResult
    reference_gate: GateResult | None
    triggers: tuple[TriggerRecord, ...]
    drift: tuple[BranchDrift, ...]
    footprints: tuple[Footprint, ...]
    """Fixed before the matrix was looked at."""
    cells: tuple[Cell, ...]
    cost: EncodeCost
    data: dict[str, str]
    """Digests of the labelled pictures, of those measured on, of the pool and of the captions."""
    notes: tuple[str, ...]
    seed: int
    environment: dict[str, str]
    started: str
    """UTC, ISO 8601."""
    seconds: float
    folder: str = ""
    schema_version: str = SCHEMA_VERSION

    @property
    def outcome(self) -> Outcome:
        """Finding: some use is exposed. Clean: all that could be measured are equivalent to the reference.

        A failed sanity gate, of the suspect or of the reference, makes every answer inconclusive.
        """
        found = overall(cell.outcome for cell in self.cells)
        gates = [self.gate, *([] if self.reference_gate is None else [self.reference_gate])]
        if found.is_answer and not all(gate.passed for gate in gates):
            return Outcome.INCONCLUSIVE
        return found

    @property
    def exit_code(self) -> int:
        """0 clean, 1 exposed, 2 error or inconclusive, 3 nothing could be compared."""
        return exit_code([self.outcome])

    def row(self, trigger: int) -> tuple[Cell, ...]:
        """The cells of one trigger."""
        return tuple(cell for cell in self.cells if cell.trigger == trigger)


for _kind in (CellState, Status, Label):
    add_words(_kind)


def exposure_to_text(result: ExposureResult) -> str:
    """The text of `exposure.json`. Raises `ContractError` for what is not plain data."""
    document = {**write_document(result), "outcome": str(result.outcome), "exit_code": result.exit_code}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def exposure_from_json(document: Any) -> ExposureResult:
    """The record that `exposure_to_text` wrote. Raises `StoreError` like `from_json`."""
    fields, stated = document, {}
    if isinstance(document, dict):
        stated = {key: document[key] for key in ("outcome", "exit_code") if key in document}
        fields = {key: value for key, value in document.items() if key not in stated}
    result: ExposureResult = read_document(fields, ExposureResult, "exposure matrix")
    said = {"outcome": str(result.outcome), "exit_code": result.exit_code}
    if any(value != said[key] for key, value in stated.items()):
        raise StoreError(
            f"the record says {stated}, but its cells make it {said}",
            remedy="The file was edited or written by another program; measure again.",
        )
    return result


def exposed(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells that are a finding."""
    return tuple(cell for cell in cells if cell.outcome is Outcome.FINDING)
