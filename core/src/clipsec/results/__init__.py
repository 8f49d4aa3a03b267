"""What a run says: outcomes, verdicts, evidence, cost and provenance, and their JSON form."""

from clipsec.results._classes import (
    SCHEMA_VERSION,
    Artifact,
    ClassEvidence,
    Cost,
    ErrorRecord,
    GateResult,
    Interval,
    Provenance,
    RunResult,
    SuspectCard,
    Verdict,
)
from clipsec.results._outcome import Outcome, exit_code, overall

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "ClassEvidence",
    "Cost",
    "ErrorRecord",
    "GateResult",
    "Interval",
    "Outcome",
    "Provenance",
    "RunResult",
    "SuspectCard",
    "Verdict",
    "exit_code",
    "overall",
]
