"""What a run says, as frozen attrs classes. Everything here is plain data: JSON in, JSON out."""

from __future__ import annotations

from typing import Any

import attrs

from clipsec.results._outcome import Outcome, exit_code, overall

SCHEMA_VERSION = "1.0"


@attrs.frozen
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float = 0.95
    method: str = ""


@attrs.frozen
class Artifact:
    """A file that belongs to a verdict, relative to the run's folder."""

    path: str
    kind: str
    """What it is: `trigger` (safetensors), `picture` (PNG), `table` (CSV)."""
    sha256: str
    description: str = ""


@attrs.frozen
class ClassEvidence:
    """What one inverted class showed."""

    index: int
    name: str
    flagged: bool
    measures: dict[str, float]
    """Named numbers, e.g. `loss`, `success_rate`, `score`; the detector documents each."""
    n: int
    """Pictures that `success_rate` is over."""
    success_interval: Interval | None = None
    artifacts: tuple[Artifact, ...] = ()


@attrs.frozen
class Cost:
    """What a verdict cost."""

    seconds: float = 0.0
    forward_rows: int = 0
    backward_rows: int = 0
    cached_rows: int = 0
    peak_memory_bytes: int = 0
    micro_batches: dict[str, int] = attrs.field(factory=dict)
    """Physical batch size by tower and operation. Results are bit-equal only at equal sizes."""
    degraded: bool = False
    """True when an out-of-memory error forced a smaller micro-batch during the run."""


@attrs.frozen
class ErrorRecord:
    """Why a check has no verdict."""

    type: str
    message: str
    remedy: str = ""
    traceback: str = ""


@attrs.frozen
class Provenance:
    """Everything needed to get the same verdict again."""

    detector: str
    """Canonical plugin name, `distribution/name`."""
    distribution: str
    version: str
    key: str
    """Content key of the unit of work: weights, plugin, options, data, seed, dtype."""
    options: dict[str, Any]
    seed: int
    search_dtype: str
    decision_dtype: str
    suspect_digest: str
    data_digest: str


WHEN_NAMED = "runs only when it is named"
"""How the summary of a check ends that no run includes unless somebody asks for it."""


@attrs.frozen
class Verdict:
    """One detector's answer about one suspect."""

    outcome: Outcome
    summary: str
    """One sentence for people."""
    score: float | None = None
    score_name: str = ""
    threshold: float | None = None
    threshold_source: str = ""
    """Where the threshold comes from: a paper, or a calibration on named models not used in any test."""
    target: str | None = None
    target_index: int | None = None
    interval: Interval | None = None
    n: int = 0
    evidence: tuple[ClassEvidence, ...] = ()
    measures: dict[str, float] = attrs.field(factory=dict)
    """Model-level numbers besides the score, e.g. the score of the other null."""
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()
    cost: Cost = attrs.field(factory=Cost)
    provenance: Provenance | None = None
    """Filled in by the runner."""
    error: ErrorRecord | None = None


@attrs.frozen
class SuspectCard:
    """What was audited."""

    name: str
    digest: str
    kind: str
    architecture: str
    activation: str
    class_names: tuple[str, ...] = ()
    base_name: str = ""
    base_digest: str = ""
    files: dict[str, str] = attrs.field(factory=dict)
    """File name to sha256."""
    notes: tuple[str, ...] = ()


@attrs.frozen
class GateResult:
    """The sanity gate: does the loaded model behave like a CLIP at all?"""

    passed: bool
    checks: dict[str, str]
    reason: str = ""


@attrs.frozen
class RunResult:
    """A whole run: one suspect, every detector that was asked.

    A failed gate makes every answer inconclusive, here and not in each writer or reader of results: numbers
    from a model that is not what it claims to be say nothing.
    """

    suspect: SuspectCard
    verdicts: dict[str, Verdict]
    """By canonical detector name."""
    gate: GateResult
    environment: dict[str, str]
    """Versions of what matters, git revision, machine."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    folder: str = ""
    schema_version: str = SCHEMA_VERSION

    def __attrs_post_init__(self) -> None:
        if not self.gate.passed:
            verdicts = {name: _distrusted(verdict, self.gate) for name, verdict in self.verdicts.items()}
            object.__setattr__(self, "verdicts", verdicts)

    @property
    def outcome(self) -> Outcome:
        """The most serious of the verdicts' outcomes."""
        return overall(verdict.outcome for verdict in self.verdicts.values())

    @property
    def exit_code(self) -> int:
        """0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran."""
        return exit_code(verdict.outcome for verdict in self.verdicts.values())


def _distrusted(verdict: Verdict, gate: GateResult) -> Verdict:
    if not verdict.outcome.is_answer:
        return verdict
    return attrs.evolve(
        verdict,
        outcome=Outcome.INCONCLUSIVE,
        summary=f"The sanity gate failed ({gate.reason}); the detector itself said {verdict.outcome}",
    )
