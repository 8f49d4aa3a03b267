"""JUnit XML, for the test views of CI servers: a test suite a suspect, a test case a check.

There is no standard; what is written is valid under the schema of Jenkins' xUnit plugin (junit-10.xsd).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from clipsec.reports._text import moment, visible
from clipsec.reports._words import WORDS, headline, reason
from clipsec.results import Outcome, RunResult, Verdict, known_findings, verdict_to_json

_COUNTS = {"failures": "failure", "errors": "error", "skipped": "skipped"}
_KNOWN = "known finding"


def render_junit(result: RunResult, *, baseline: RunResult | None = None) -> str:
    """One run as JUnit XML. A finding is a failure; one that the baseline knows is skipped, never passed.

    A run in which nothing was checked, or whose sanity gate failed, has a test case more, with an error.
    """
    suite = Element("testsuite", name=_line(result.suspect.name) or "suspect")
    properties = SubElement(suite, "properties")
    for key, value in _facts(result):
        SubElement(properties, "property", name=_line(key), value=_line(value))
    known = known_findings(baseline, result)
    for name, verdict in result.verdicts.items():
        _case(suite, name, verdict, name in known)
    if not result.gate.passed:
        _trouble(suite, "sanity gate", f"The sanity gate failed: {result.gate.reason}")
    if result.outcome is Outcome.SKIPPED:
        _trouble(suite, "anything was checked", headline(result))
    suite.set("time", _seconds(result.seconds))
    suite.set("timestamp", _line(result.started))
    return _text([suite])


def join_junit(texts: Sequence[str]) -> str:
    """Several documents as one, suite after suite."""
    return _text([suite for text in texts for suite in ElementTree.fromstring(text)])


def _text(suites: list[Element]) -> str:
    root = Element("testsuites", name="clipsec")
    for suite in suites:
        suite.set("tests", str(len(suite.findall("testcase"))))
        for attribute, tag in _COUNTS.items():
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
        root.append(suite)
    for attribute in ("tests", "failures", "errors"):
        root.set(attribute, str(sum(int(suite.get(attribute, "0")) for suite in suites)))
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: Element, name: str, verdict: Verdict, known: bool) -> None:
    distribution, _, last = name.rpartition("/")
    case = SubElement(
        suite,
        "testcase",
        name=_line(last or name),
        classname=_line(distribution) or "clipsec",
        time=_seconds(verdict.cost.seconds),
    )
    tag = verdict.outcome.terms.junit_element
    if tag is not None:
        kind, text = str(verdict.outcome), reason(verdict)
        if known:
            tag, kind, text = "skipped", _KNOWN, f"A finding that the baseline has too: {text}"
        child = SubElement(case, tag, type=kind, message=_line(f"{WORDS[verdict.outcome].label}: {text}"))
        child.text = _lines("\n".join(_details(verdict, text)))
    SubElement(case, "system-out").text = _lines("\n".join(_numbers(verdict)))


def _trouble(suite: Element, name: str, text: str) -> None:
    case = SubElement(suite, "testcase", name=name, classname="clipsec", time="0.000")
    SubElement(case, "error", type=name, message=_line(text)).text = _lines(text)


def _details(verdict: Verdict, text: str) -> Iterator[str]:
    yield text
    error = verdict.error
    if error is not None:
        if text != (told := f"{error.type}: {error.message}"):
            yield told
        if error.remedy:
            yield f"What to do: {error.remedy}"
    yield from verdict.notes


def _numbers(verdict: Verdict) -> Iterator[str]:
    yield f"outcome: {verdict.outcome}"
    yield f"summary: {verdict.summary}"
    document = verdict_to_json(verdict)
    for key in ("target", "score", "threshold", "threshold_source", "interval", "n"):
        if document.get(key) not in (None, "", 0):
            yield f"{key}: {document[key]}"
    if verdict.provenance is not None:
        yield f"version: {verdict.provenance.version}"
    for row in verdict.evidence:
        if row.flagged:
            yield f"flagged: {row.name} {dict(row.measures)}"
    yield from (f"note: {note}" for note in verdict.notes)


def _facts(result: RunResult) -> Iterator[tuple[str, str]]:
    yield "outcome", str(result.outcome)
    yield "exit code", str(result.exit_code)
    yield "started", moment(result.started)
    yield "suspect digest", result.suspect.digest
    yield "architecture", result.suspect.architecture
    for key, value in result.gate.checks.items():
        yield f"sanity gate: {key}", value
    yield from result.environment.items()


def _line(text: str) -> str:
    return visible(text, longest=2000)


def _lines(text: str) -> str:
    """`visible` leaves nothing that XML 1.0 forbids: controls, surrogates and non-characters are escapes."""
    return visible(text, lines=True, longest=20_000)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}" if math.isfinite(seconds) and seconds > 0 else "0.000"  # -0.0 has a sign
