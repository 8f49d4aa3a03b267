"""Results survive JSON exactly, and nothing else is accepted as a result."""

from __future__ import annotations

import copy
import json
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.errors import ContractError, StoreError
from clipsec.results import (
    SCHEMA_VERSION,
    ClassEvidence,
    Cost,
    ErrorRecord,
    GateResult,
    Outcome,
    Provenance,
    RunResult,
    SuspectCard,
    Verdict,
    from_json,
    schema,
    to_json,
    verdict_from_json,
    verdict_to_json,
)
from clipsec.results._plain import decode_plain, encode_plain, parse_json
from clipsec.results._schema import PUBLISHED, published_text

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(), children, max_size=2),
    max_leaves=4,
)


def values_of(kind):
    """A strategy for any annotation that occurs in the result classes."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return plain
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values_of(arguments[1]), max_size=2)
    if origin is types.UnionType:
        return st.one_of([st.none() if part is type(None) else values_of(part) for part in arguments])
    if attrs.has(kind):
        hints = get_type_hints(kind)
        fields = {field.name: values_of(hints[field.name]) for field in attrs.fields(kind)}
        if kind is RunResult:
            fields["schema_version"] = st.just(SCHEMA_VERSION)
        return st.builds(kind, **fields)
    return {str: st.text(max_size=6), float: st.floats(), int: st.integers(), bool: st.booleans()}.get(
        kind, st.sampled_from(Outcome)
    )


def same(left, right):
    """Equality by type and content, in which NaN equals itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if attrs.has(type(left)):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in attrs.fields(type(left)))
    return left == right


@settings(max_examples=60, deadline=None)
@given(values_of(RunResult))
def test_every_result_comes_back_exactly(result):
    """Any result, through real JSON text: types, NaN, infinities, signs of zero and order kept."""
    text = json.dumps(to_json(result), allow_nan=False)
    assert same(from_json(parse_json(text)), result)


@settings(max_examples=60, deadline=None)
@given(values_of(Verdict))
def test_every_verdict_comes_back_exactly(verdict):
    """A stored verdict is the verdict."""
    text = json.dumps(verdict_to_json(verdict), allow_nan=False)
    assert same(verdict_from_json(parse_json(text)), verdict)


VALIDATOR = jsonschema.Draft202012Validator(schema())


@settings(max_examples=40, deadline=None)
@given(values_of(RunResult))
def test_every_result_fulfils_the_schema(result):
    """What is written validates against what is published."""
    VALIDATOR.validate(json.loads(json.dumps(to_json(result))))


def test_the_published_schema_is_the_generated_one():
    """If this fails, the classes changed: raise SCHEMA_VERSION if readers must know, then run publish()."""
    assert PUBLISHED.read_text(encoding="utf-8") == published_text()
    assert PUBLISHED.name == f"run-{SCHEMA_VERSION}.json"


def test_the_schema_is_valid_and_describes_every_documented_field():
    """It is a draft 2020-12 schema, and the docstrings below fields are in it."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$defs"]["Verdict"]["properties"]["summary"]["description"] == "One sentence for people."


@pytest.fixture
def result():
    """A small result that uses most fields."""
    provenance = Provenance(
        "d/x", "d", "1", "ab", {"epsilon": 0.1, "names": ["a"]}, 7, "bfloat16", "float32", "s", "t"
    )
    verdict = Verdict(
        Outcome.FINDING,
        "class cat gives way",
        score=3.5,
        threshold=2.0,
        evidence=(ClassEvidence(0, "cat", True, {"score": 3.5, "gap": math.inf}, 100),),
        cost=Cost(1.5, 10, micro_batches={"image": 64}),
        provenance=provenance,
    )
    broken = Verdict(Outcome.ERROR, "crashed", error=ErrorRecord("ValueError", "x"))
    return RunResult(
        SuspectCard("m", "d", "clip", "ViT", "gelu", ("cat", "dog")),
        {"d/x": verdict, "d/y": broken},
        GateResult(True, {"activation": "ok"}),
        {"torch": "2"},
        "2026-01-01T00:00:00+00:00",
        2.0,
    )


def test_the_document_states_outcome_and_exit_code(result):
    """A shell script needs no table: both are in the file."""
    document = to_json(result)
    assert (document["outcome"], document["exit_code"]) == ("finding", 1)


def test_a_non_finite_number_is_a_text_that_schema_and_reader_know(result):
    """Infinity is the text "Infinity": not a number for any reader, and read back as one by ours."""
    document = json.loads(json.dumps(to_json(result), allow_nan=False))
    measures = document["verdicts"]["d/x"]["evidence"][0]["measures"]
    assert measures == {"score": 3.5, "gap": "Infinity"}
    assert from_json(document).verdicts["d/x"].evidence[0].measures["gap"] == math.inf


def damaged(document, path, value):
    """A copy with one value replaced (or removed, for `...`)."""
    document = copy.deepcopy(document)
    *parents, last = path
    place = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


VERDICT = ("verdicts", "d/x")
DAMAGES = [
    ((*VERDICT, "outcome"), "passed"),
    ((*VERDICT, "outcome"), None),
    ((*VERDICT, "outcome"), ...),
    ((*VERDICT, "score"), "3.5"),
    ((*VERDICT, "score"), True),
    ((*VERDICT, "score"), "nan"),
    ((*VERDICT, "score"), math.nan),
    ((*VERDICT, "score"), [3.5]),
    ((*VERDICT, "n"), 1.0),
    ((*VERDICT, "n"), False),
    ((*VERDICT, "summary"), 3),
    ((*VERDICT, "notes"), "note"),
    ((*VERDICT, "evidence"), {}),
    ((*VERDICT, "evidence"), ["cat"]),
    ((*VERDICT, "evidence", 0, "flagged"), 1),
    ((*VERDICT, "evidence", 0, "flagged"), "false"),
    ((*VERDICT, "evidence", 0, "measures"), []),
    ((*VERDICT, "evidence", 0, "measures", "score"), None),
    ((*VERDICT, "cost"), None),
    ((*VERDICT, "provenance", "options"), []),
    ((*VERDICT, "provenance", "options", "epsilon"), {"$float": "zero"}),
    ((*VERDICT, "unknown"), 1),
    (("verdicts",), []),
    (("verdicts", "d/x"), None),
    (("suspect",), ...),
    (("suspect", "class_names"), "cat"),
    (("gate", "passed"), "yes"),
    (("unknown",), 1),
    (("outcome",), "clean"),
    (("exit_code",), 0),
    (("schema_version",), ...),
    (("schema_version",), 1.0),
    (("schema_version",), "1"),
    (("schema_version",), "2.0"),
    (("schema_version",), "one"),
]


@pytest.mark.parametrize(("path", "value"), DAMAGES, ids=lambda part: json.dumps(part, default=str))
def test_a_document_that_is_not_a_result_is_refused(result, path, value):
    """Wrong types are never coerced, unknown and missing fields never ignored; the error has a remedy."""
    with pytest.raises(StoreError) as caught:
        from_json(damaged(to_json(result), path, value))
    assert caught.value.remedy


@pytest.mark.parametrize("document", [None, [], "x", 3, {}])
def test_other_json_is_refused(document):
    """Not an object, or an empty one."""
    with pytest.raises(StoreError):
        from_json(document)
    with pytest.raises(StoreError):
        verdict_from_json(document)


def test_a_finding_edited_into_clean_is_noticed(result):
    """Changing only the headline, or only the verdict, contradicts the rest."""
    for path in (("outcome",), ("verdicts", "d/x", "outcome")):
        with pytest.raises(StoreError, match="verdicts make it"):
            from_json(damaged(to_json(result), path, "clean"))


@pytest.mark.parametrize(
    "path", [("new",), ("verdicts", "d/x", "new"), ("verdicts", "d/x", "evidence", 0, "new")]
)
def test_fields_of_a_newer_minor_version_are_ignored(result, path):
    """A file from a newer clipsec of the same major version can still be read."""
    document = damaged(damaged(to_json(result), ("schema_version",), "1.7"), path, {"anything": []})
    assert from_json(document).verdicts == result.verdicts


def test_missing_optional_fields_take_their_defaults(result):
    """A field with a default may be absent, as in files of an older minor version."""
    document = damaged(to_json(result), ("verdicts", "d/x", "notes"), ...)
    assert from_json(document) == result


@pytest.mark.parametrize(
    "bad",
    [
        Verdict(Outcome.CLEAN, "x", score=torch.tensor(1.0)),
        Verdict(Outcome.CLEAN, "x", score=np.float32(1.0)),
        Verdict(Outcome.CLEAN, "x", score=True),
        Verdict(Outcome.CLEAN, "x", score="1"),
        Verdict(Outcome.CLEAN, 3),
        Verdict(Outcome.CLEAN, "x", n=1.5),
        Verdict(Outcome.CLEAN, "x", measures={"a": None}),
        Verdict(Outcome.CLEAN, "x", measures={1: 1.0}),
        Verdict(Outcome.CLEAN, "x", cost=Cost(degraded=1)),
    ],
    ids=lambda verdict: repr(verdict)[:80],
)
def test_what_a_plugin_must_not_put_into_a_verdict_is_refused(bad):
    """Writing fails loudly instead of writing something else."""
    with pytest.raises(ContractError):
        verdict_to_json(bad)


def test_numpy_float64_and_integers_are_written_as_plain_numbers():
    """What is a float or an index to Python is written as one."""
    verdict = Verdict(Outcome.CLEAN, "x", score=np.float64(0.5), n=np.int64(3))
    document = verdict_to_json(verdict)
    assert type(document["score"]) is float
    assert type(document["n"]) is int


@given(plain)
def test_plain_values_come_back_exactly(value):
    """Also keys that start with our own mark."""
    assert same(decode_plain(parse_json(json.dumps(encode_plain(value), allow_nan=False))), value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', "[" * 100_000, "{", ""])
def test_lax_json_is_refused(text):
    """Constants that are not JSON, repeated keys, absurd depth, truncation."""
    with pytest.raises(ValueError):
        parse_json(text)
