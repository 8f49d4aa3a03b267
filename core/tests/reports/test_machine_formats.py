"""SARIF and JUnit: valid whatever models and plugins wrote, plain, with stable identities."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipsec.reports import join_junit, join_sarif, render_junit, render_sarif
from clipsec.results import ErrorRecord, GateResult, Outcome, Verdict

NAMES = ("clean", "finding", "mixed", "gate-failed", "hostile", "many", "nothing")
any_text = st.text(st.characters(exclude_categories=()), max_size=30)


@pytest.fixture(params=NAMES)
def sample(request, samples, folder):
    return samples.ALL[request.param](folder)


def test_every_sample_is_valid(sample, read_sarif, read_junit):
    """Under the official SARIF schema and the JUnit vocabulary, attacks and empty runs included."""
    read_sarif(render_sarif(sample))
    read_junit(render_junit(sample))


def texts(value):
    """Every text of a JSON document."""
    if isinstance(value, dict):
        yield from (text for item in value.items() for text in texts(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in texts(item))
    elif isinstance(value, str):
        yield value


def messages(value):
    """Every SARIF message."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value["text"]
        yield from (text for item in value.values() for text in messages(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in messages(item))


def test_sarif_texts_are_plain(samples, folder, read_sarif):
    """No control or direction character anywhere; in messages no link and no placeholder."""
    run = read_sarif(render_sarif(samples.hostile(folder)))
    for text in texts(run):
        assert text.isprintable() or "\u200c" in text or "\u200d" in text
    for text in messages(run):
        assert not re.search(r"(?<!\\)[\[\]]", text.replace("\\\\", ""))
        assert "{" not in text.replace("{{", "")
        assert "}" not in text.replace("}}", "")


def test_sarif_places_are_relative_uris(samples, folder, read_sarif):
    """A file name of any characters stays a relative path: no scheme, no host, no absolute path."""
    sample = samples.hostile(folder)
    names = ("javascript:alert(1)", "//host/x", "/etc/passwd", "a b\n<c>", "\ud800", "\u732b.pt", "")
    files = dict.fromkeys(names, "00" * 32)
    run = read_sarif(render_sarif(attrs.evolve(sample, suspect=attrs.evolve(sample.suspect, files=files))))
    places = [artifact["location"] for artifact in run["artifacts"]]
    for place in places:
        parts = urlsplit(place["uri"])
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert not parts.path.startswith("/")
        assert place["uri"].isascii()
        assert place["uriBaseId"] in run["originalUriBaseIds"]
    assert "\u732b.pt" in [unquote(place["uri"]) for place in places]


def test_sarif_shows_no_folder_of_the_machine(samples, folder):
    """Where the run lay is nobody's business on a code scanning page."""
    assert str(folder) not in render_sarif(samples.finding(folder))


def test_sarif_result_of_a_finding(samples, folder, read_sarif):
    """Rule, target, score, threshold, interval, files with digests, pictures of the flagged class only."""
    run = read_sarif(render_sarif(samples.finding(folder)))
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["properties"]["version"] == "0.1.0"
    assert "calibrated on 12 clean models" in rule["help"]["text"]
    (found,) = run["results"]
    assert (found["ruleId"], found["ruleIndex"]) == (rule["id"], 0)
    numbers = found["properties"]
    assert (numbers["score"], numbers["threshold"], numbers["n"]) == (5.306, 2.0, 300)
    assert numbers["interval"] == {"low": 4.61, "high": 5.94, "level": 0.95, "method": "bootstrap"}
    assert found["locations"][0]["logicalLocations"][0]["name"] == "dalmatian"
    assert [item["artifactLocation"]["uri"] for item in found["attachments"]] == ["verdicts/trigger-24.png"]
    hashes = {item["location"]["uri"]: item["hashes"]["sha-256"] for item in run["artifacts"]}
    assert hashes["prompt_learner/model.safetensors"] == "aa" * 32
    picture = Path(folder) / "verdicts" / "trigger-24.png"
    assert picture.is_file()
    assert found["partialFingerprints"].keys() == {"suspectDetectorTarget/v1"}


def test_the_fingerprint_is_the_findings_own(samples, folder, read_sarif):
    """Score, version and the model's name leave it; the model's bytes, the check and the target change it."""

    def fingerprint(result):
        (found,) = read_sarif(render_sarif(result))["results"]
        return found["partialFingerprints"]["suspectDetectorTarget/v1"]

    run = samples.finding(folder)
    ((name, verdict),) = run.verdicts.items()
    other_score = attrs.evolve(run, verdicts={name: attrs.evolve(verdict, score=9.0, provenance=None)})
    renamed = attrs.evolve(run, suspect=attrs.evolve(run.suspect, name="other"), seconds=1.0)
    assert fingerprint(run) == fingerprint(other_score) == fingerprint(renamed)
    changed = [
        attrs.evolve(run, suspect=attrs.evolve(run.suspect, digest="22" * 32)),
        attrs.evolve(run, verdicts={"other/check": verdict}),
        attrs.evolve(run, verdicts={name: attrs.evolve(verdict, target="crab")}),
    ]
    assert len({fingerprint(run), *map(fingerprint, changed)}) == 4


def one(samples, outcome, target=None, **changes):
    verdict = Verdict(outcome, "said so", target=target)
    return attrs.evolve(samples.run({"dist/check": verdict}), **changes)


def test_baseline_states(samples, read_sarif):
    """A known finding is unchanged, one with another target or model is new; a crash is no result at all."""
    before = one(samples, Outcome.FINDING, "crab")
    other_model = attrs.evolve(before, suspect=attrs.evolve(before.suspect, digest="22" * 32))

    def states(result, baseline):
        run = read_sarif(render_sarif(result, baseline=baseline))
        return [found["baselineState"] for found in run["results"]]

    assert states(before, before) == ["unchanged"]
    assert states(one(samples, Outcome.FINDING, "chair"), before) == ["new"]
    assert states(before, other_model) == ["new"]
    assert states(before, one(samples, Outcome.CLEAN)) == ["new"]
    assert states(one(samples, Outcome.CLEAN), before) == ["updated"]
    assert states(one(samples, Outcome.CLEAN), one(samples, Outcome.CLEAN)) == ["unchanged"]
    assert states(one(samples, Outcome.INCONCLUSIVE), before) == ["updated"]
    assert states(one(samples, Outcome.ERROR), before) == []
    assert "baselineState" not in render_sarif(before)


def test_a_known_finding_is_skipped_in_junit_and_nothing_else_is(samples, read_junit):
    """It neither fails nor passes; a check that crashed since is an error."""
    before = one(samples, Outcome.FINDING, "crab")

    def trouble(result):
        (suite,) = read_junit(render_junit(result, baseline=before))
        return [child.tag for child in suite.find("testcase") if child.tag in ("failure", "error", "skipped")]

    assert trouble(before) == ["skipped"]
    assert trouble(one(samples, Outcome.FINDING, "chair")) == ["failure"]
    assert trouble(one(samples, Outcome.ERROR)) == ["error"]


def test_several_runs_join_into_one_document(samples, folder, read_junit):
    """Run after run, suite after suite, with the counts of all."""
    runs = [samples.finding(folder), samples.mixed(folder), samples.nothing(folder)]
    log = json.loads(join_sarif([render_sarif(run) for run in runs]))
    assert [run["properties"]["outcome"] for run in log["runs"]] == ["finding", "error", "skipped"]
    suites = read_junit(join_junit([render_junit(run) for run in runs]))
    assert (len(suites), suites.get("tests"), suites.get("failures"), suites.get("errors")) == (
        3,
        "5",
        "1",
        "3",
    )


@given(any_text, any_text, any_text, st.floats())
@example("", "", "", -0.0)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_text_gives_valid_documents(samples, read_sarif, read_junit, first, second, third, number):
    """Controls, surrogates, non-characters, `]]>`, any number: valid XML and JSON with the outcome intact."""
    verdicts = {
        first: Verdict(
            Outcome.FINDING, second + "]]>", score=number, target=third, threshold=number, notes=(first,)
        ),
        f"x{second}": Verdict(Outcome.ERROR, third, error=ErrorRecord(first, second, third, first)),
    }
    gate = GateResult(True, {second: third})
    run = samples.run(verdicts, gate=gate, name=third)
    run = attrs.evolve(run, started=first, seconds=number, environment={third: second})
    read_sarif(render_sarif(run))
    text = render_junit(run)
    (suite,) = read_junit(ElementTree.tostring(ElementTree.fromstring(text), encoding="unicode"))
    text.encode("utf-8")
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")
