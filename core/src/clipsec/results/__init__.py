"""What a run says: outcomes, verdicts, evidence, cost and provenance, and their JSON form."""

from clipsec.results._check import check_verdict
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
from clipsec.results._json import from_json, to_json, to_text, verdict_from_json, verdict_to_json
from clipsec.results._outcome import Outcome, exit_code, overall
from clipsec.results._schema import schema

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
    "check_verdict",
    "exit_code",
    "from_json",
    "overall",
    "schema",
    "to_json",
    "to_text",
    "verdict_from_json",
    "verdict_to_json",
]
