"""SARIF 2.1.0, for code scanning and dashboards.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/sarif-v2.1.0-errata01-os-complete.html; numbers
of sections in comments are its.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from clipsec import __version__
from clipsec.reports._text import visible
from clipsec.reports._words import CAVEAT, EXIT_WORDS, WORDS, headline, reason, target_word
from clipsec.results import (
    Artifact,
    Change,
    Outcome,
    RunResult,
    Verdict,
    change_between,
    finding_fingerprint,
    known_findings,
    verdict_to_json,
)

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "suspectDetectorTarget/v1"
"""Name of the partial fingerprint: suspect digest, detector and target."""
GATE_FAILED, NOTHING_RAN = "sanity-gate-failed", "nothing-ran"

_SHOWN = (
    "score",
    "score_name",
    "threshold",
    "threshold_source",
    "interval",
    "n",
    "target",
    "target_index",
    "measures",
    "notes",
)


def render_sarif(result: RunResult, *, baseline: RunResult | None = None) -> str:
    """One run as a SARIF log. With a baseline, results have a `baselineState`.

    Every text of a model or plugin is plain: it opens no link, holds no placeholder, hides no character.
    """
    return _text([_run(result, baseline)])


def join_sarif(logs: Sequence[str]) -> str:
    """Several logs as one, run after run."""
    return _text([run for log in logs for run in json.loads(log)["runs"]])


def _text(runs: list[dict[str, Any]]) -> str:
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": runs}
    return json.dumps(log, indent=1, allow_nan=False) + "\n"


def _run(result: RunResult, baseline: RunResult | None) -> dict[str, Any]:
    names = list(result.verdicts)
    suspect = result.suspect
    return {
        "tool": {
            "driver": {
                "name": "clipsec",
                "version": __version__,
                "semanticVersion": __version__,
                "fullDescription": _message("Audits CLIP models that somebody else delivered for backdoors."),
                "rules": [_rule(name, result.verdicts[name]) for name in names],
                "notifications": list(_descriptors()),
            },
            "extensions": list(_extensions(result)),
        },
        "automationDetails": {"id": f"clipsec/{_plain(suspect.name)}/{_plain(suspect.digest[:12])}"},
        "invocations": [_invocation(result)],
        # No uri: where the folders lay on the machine that ran the audit is nobody's business.
        "originalUriBaseIds": {
            "SUSPECT": {"description": _message("The delivered model.")},
            "RUN": {"description": _message("The folder of the run.")},
        },
        "artifacts": list(_artifacts(result)),
        "results": [
            _result(result, name, position, baseline)
            for position, name in enumerate(names)
            if result.verdicts[name].outcome.terms.sarif_kind is not None
        ],
        "properties": _plain_json(
            {
                "outcome": str(result.outcome),
                "suspectDigest": suspect.digest,
                "architecture": suspect.architecture,
                "sanityGate": {"passed": result.gate.passed, "checks": result.gate.checks},
                "environment": result.environment,
            }
        ),
    }


def _rule(name: str, verdict: Verdict) -> dict[str, Any]:
    facts, source = verdict.provenance, verdict.threshold_source
    by = f"{facts.distribution} {facts.version}" if facts is not None else name.rpartition("/")[0]
    help_text = f"The check {name}, from {by or 'an unknown distribution'}."
    if source:
        help_text += f" Its threshold comes from: {source}."
    return {
        "id": _plain(name),
        "name": _plain(name.rpartition("/")[2] or name),
        "shortDescription": _message(f"Does {name} find a backdoor in the model?"),
        "help": _message(f"{help_text} {CAVEAT}", longest=5000),
        "defaultConfiguration": {"level": "error"},
        "properties": _plain_json(
            {
                "version": "" if facts is None else facts.version,
                "distribution": "" if facts is None else facts.distribution,
                "options": None if facts is None else verdict_to_json(verdict)["provenance"]["options"],
                "tags": ["security", "backdoor"],
            }
        ),
    }


def _descriptors() -> Iterator[dict[str, Any]]:
    for outcome, words in WORDS.items():
        if outcome.terms.sarif_notification is not None:
            yield {
                "id": f"check-{outcome}",
                "shortDescription": _message(f"A check has no verdict: {words.label}."),
            }
    yield {
        "id": GATE_FAILED,
        "shortDescription": _message("The loaded model does not behave like the model it claims to be."),
    }
    yield {"id": NOTHING_RAN, "shortDescription": _message("No check said anything about the model.")}


def _extensions(result: RunResult) -> Iterator[dict[str, Any]]:
    found = {
        verdict.provenance.distribution: verdict.provenance.version
        for verdict in result.verdicts.values()
        if verdict.provenance is not None
    }
    for distribution, version in found.items():
        yield {"name": _plain(distribution) or "unknown", "version": _plain(version)}


def _invocation(result: RunResult) -> dict[str, Any]:
    outcomes = {verdict.outcome for verdict in result.verdicts.values()}
    answered = any(outcome.is_answer for outcome in outcomes)
    failed = outcomes & {Outcome.ERROR, Outcome.INCONCLUSIVE}
    return {
        # 3.20.14. A reader who looks at results alone must not take a check that crashed for one that
        # found nothing.
        "executionSuccessful": result.gate.passed and answered and not failed,
        "exitCode": result.exit_code,
        "exitCodeDescription": EXIT_WORDS[result.exit_code],
        "toolExecutionNotifications": list(_notifications(result)),
        **_times(result),
    }


def _times(result: RunResult) -> dict[str, str]:
    try:
        start = datetime.datetime.fromisoformat(result.started).astimezone(datetime.UTC)
        end = start + datetime.timedelta(seconds=result.seconds)
    except (ValueError, OverflowError):
        return {}
    return {"startTimeUtc": f"{start:%Y-%m-%dT%H:%M:%SZ}", "endTimeUtc": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def _notifications(result: RunResult) -> Iterator[dict[str, Any]]:
    if not result.gate.passed:
        yield {
            "descriptor": {"id": GATE_FAILED},
            "level": "error",
            "message": _message(f"The sanity gate failed: {result.gate.reason}", longest=5000),
        }
    if result.outcome is Outcome.SKIPPED:
        yield {
            "descriptor": {"id": NOTHING_RAN},
            "level": "error",
            "message": _message(f"{headline(result)}."),
        }
    for position, (name, verdict) in enumerate(result.verdicts.items()):
        level = verdict.outcome.terms.sarif_notification
        if level is None:
            continue
        notification: dict[str, Any] = {
            "descriptor": {"id": f"check-{verdict.outcome}"},
            "associatedRule": {"id": _plain(name), "index": position},
            "level": level,
            "message": _message(_whole_reason(verdict), longest=5000),
        }
        if verdict.error is not None:
            notification["exception"] = {
                "kind": _plain(verdict.error.type),
                "message": _plain(verdict.error.message, longest=5000),
            }
        yield notification


def _whole_reason(verdict: Verdict) -> str:
    remedy = "" if verdict.error is None else verdict.error.remedy
    parts = filter(None, [reason(verdict), remedy, *verdict.notes])
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)


def _artifacts(result: RunResult) -> Iterator[dict[str, Any]]:
    for name, sha256 in _files(result):
        yield {
            "location": _place(name, "SUSPECT"),
            "roles": ["analysisTarget"],
            **({"hashes": {"sha-256": _plain(sha256)}} if sha256 else {}),
        }
    shown = {item.path: item for verdict in result.verdicts.values() for item in _shown(verdict)}
    for item in shown.values():
        yield {
            "location": _place(item.path, "RUN"),
            "roles": ["attachment"],
            "hashes": {"sha-256": _plain(item.sha256)},
        }


def _files(result: RunResult) -> list[tuple[str, str]]:
    """The suspect's files with their sha256; its name stands in when it has none, because code scanning
    refuses a result without a place."""
    return list(result.suspect.files.items()) or [(result.suspect.name, "")]


def _shown(verdict: Verdict) -> Iterable[Artifact]:
    yield from verdict.artifacts
    for row in verdict.evidence:
        if row.flagged:
            yield from row.artifacts


def _result(result: RunResult, name: str, position: int, baseline: RunResult | None) -> dict[str, Any]:
    verdict = result.verdicts[name]
    terms = verdict.outcome.terms
    place = _place(_files(result)[0][0], "SUSPECT")
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": place}}
    if verdict.target is not None:
        location["logicalLocations"] = [
            {"name": _plain(verdict.target), "kind": target_word(result, verdict.target)}
        ]
    found: dict[str, Any] = {
        "ruleId": _plain(name),
        "ruleIndex": position,
        "kind": terms.sarif_kind,
        "level": terms.sarif_level,
        "message": _message(f"{WORDS[verdict.outcome].label}: {reason(verdict)}", longest=5000),
        "analysisTarget": place,
        "locations": [location],
        "partialFingerprints": {
            FINGERPRINT: finding_fingerprint(result.suspect.digest, name, verdict.target)
        },
        "properties": _plain_json(
            {"outcome": str(verdict.outcome)}
            | {key: value for key, value in verdict_to_json(verdict).items() if key in _SHOWN}
        ),
    }
    attachments = [
        {
            "artifactLocation": _place(item.path, "RUN"),
            "description": _message(f"{item.kind}: {item.description}"),
        }
        for item in {item.path: item for item in _shown(verdict)}.values()
    ]
    if attachments:
        found["attachments"] = attachments
    if baseline is not None:
        found["baselineState"] = _state(result, name, baseline)
    return found


def _state(result: RunResult, name: str, baseline: RunResult) -> str:
    """3.27.24. Only a finding that the baseline has, or the same outcome, is unchanged."""
    if name in known_findings(baseline, result):
        return "unchanged"
    before, now = baseline.verdicts.get(name), result.verdicts[name]
    if before is None or baseline.suspect.digest != result.suspect.digest:
        return "new"
    if change_between(before, now) is Change.NEW_FINDING:
        return "new"
    return "unchanged" if before.outcome is now.outcome else "updated"


def _place(path: str, base: str) -> dict[str, Any]:
    """An artifactLocation; a path of any characters as a relative URI reference (3.4.4)."""
    return {"uri": quote(_plain(path, longest=2000).lstrip("/"), safe="/") or ".", "uriBaseId": base}


def _message(text: str, longest: int = 600) -> dict[str, str]:
    """A plain text message. Brackets would make a link, braces a placeholder (3.11.5, 3.11.6)."""
    shown = visible(text, longest=longest).replace("\\", "\\\\")
    for bracket in "[]":
        shown = shown.replace(bracket, f"\\{bracket}")
    return {"text": shown.replace("{", "{{").replace("}", "}}")}


def _plain(text: str, longest: int = 600) -> str:
    return visible(text, longest=longest)


def _plain_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_json(item) for item in value]
    return _plain(value) if isinstance(value, str) else value
