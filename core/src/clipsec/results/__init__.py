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
from clipsec.results._compare import (
    Change,
    CheckComparison,
    Comparison,
    Difference,
    change_between,
    compare_runs,
    counted_outcomes,
    finding_fingerprint,
    known_findings,
)
from clipsec.results._json import from_json, to_json, to_text, verdict_from_json, verdict_to_json
from clipsec.results._outcome import FAIL_ON, Outcome, Terms, exit_code, overall
from clipsec.results._schema import schema

__all__ = [
    "FAIL_ON",
    "SCHEMA_VERSION",
    "Artifact",
    "Change",
    "CheckComparison",
    "ClassEvidence",
    "Comparison",
    "Cost",
    "Difference",
    "ErrorRecord",
    "GateResult",
    "Interval",
    "Outcome",
    "Provenance",
    "RunResult",
    "SuspectCard",
    "Terms",
    "Verdict",
    "change_between",
    "check_verdict",
    "compare_runs",
    "counted_outcomes",
    "exit_code",
    "finding_fingerprint",
    "from_json",
    "known_findings",
    "overall",
    "schema",
    "to_json",
    "to_text",
    "verdict_from_json",
    "verdict_to_json",
]
