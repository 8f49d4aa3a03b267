"""Suite files: what they say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipsec.bench import SuiteError, parse_suite, read_suite
from clipsec.errors import UsageError

SUITES = Path(__file__).parents[3] / "tests" / "suites"


def document(**changes: Any) -> dict[str, Any]:
    """A suite that is right, with top-level tables replaced."""
    return {
        "name": "small",
        "bases": {"toy": "base"},
        "attacks": {"plant": {"plugin": "plant", "settings": {"target": "random"}, "min_success": 0.6}},
        "detectors": {"sniff": {"plugin": "sniff"}},
        "halves": {
            "calibration": {"datasets": ["one"], "seeds": {"clean": [1, 2], "others": [1]}},
            "test": {"datasets": ["two"], "seeds": [3]},
        },
        **changes,
    }


def problems(**changes: Any) -> str:
    with pytest.raises(SuiteError) as refused:
        parse_suite(document(**changes))
    return "\n".join(refused.value.problems)


def test_clean_models_come_from_the_plugin_none_unless_the_suite_says_otherwise() -> None:
    """Every half has its clean models, without an entry for them."""
    suite = parse_suite(document())
    assert (suite.clean_label, suite.attacks["clean"].plugin) == ("clean", "none")
    assert suite.seeds_of("calibration", "clean") == (1, 2)
    assert suite.seeds_of("calibration", "plant") == (1,)
    assert suite.seeds_of("test", "clean") == suite.seeds_of("test", "plant") == (3,)
    own = {"untouched": {"plugin": "mine", "clean": True}, "plant": {"plugin": "plant"}}
    halves = {"test": {"datasets": ["two"], "seeds": {"untouched": [1], "others": [1]}}}
    assert parse_suite(document(attacks=own, halves=halves)).clean_label == "untouched"


def test_a_half_can_leave_attacks_out_but_never_the_clean_models() -> None:
    """Without clean models there is nothing to compare accuracy with."""
    halves = {"test": {"datasets": ["two"], "seeds": [3], "attacks": []}}
    suite = parse_suite(document(halves=halves))
    assert suite.seeds_of("test", "plant") == ()
    assert suite.seeds_of("test", "clean") == (3,)


def test_later_settings_win() -> None:
    """Learner, attack, data set, attack on that data set."""
    suite = parse_suite(
        document(
            learners={"l": {"settings": {"a": "learner", "b": "learner", "c": "learner", "d": "learner"}}},
            attacks={"plant": {"plugin": "plant", "settings": {"b": "attack", "c": "attack", "d": "attack"}}},
            datasets={"one": {"settings": {"c": "data", "d": "data"}, "attacks": {"plant": {"d": "both"}}}},
        )
    )
    assert suite.settings_of("one", "l", "plant") == {"a": "learner", "b": "attack", "c": "data", "d": "both"}
    assert suite.settings_of("two", "l", "plant")["d"] == "attack"
    assert suite.settings_of("one", "l", "clean") == {
        "a": "learner",
        "b": "learner",
        "c": "data",
        "d": "data",
    }


def test_rules_can_differ_by_attack() -> None:
    """A weak attack may have a goal of its own; what it does not say is the suite's."""
    suite = parse_suite(document(rules={"min_success": 0.9, "max_loss": 0.02}))
    assert (suite.rules_of("plant").min_success, suite.rules_of("plant").max_loss) == (0.6, 0.02)
    assert suite.rules_of("clean").min_success == 0.9


def test_the_digest_is_of_what_the_file_says() -> None:
    """Comments and order change nothing, a setting does."""
    first = parse_suite(document())
    turned = parse_suite(dict(reversed(document().items())))
    assert first.digest == turned.digest
    assert first.digest != parse_suite(document(rules={"max_loss": 0.02})).digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"detectors": {"sniff": {"plugin": "sniff", "optoins": {}}}}, "detectors.sniff: unknown optoins"),
        ({"detectors": {"sniff": {"options": {}}}}, "plugin is missing"),
        ({"detectors": {}}, "it names no detector"),
        ({"bases": {"toy": 3}}, "bases.toy: 3 is not a text"),
        ({"rules": {"max_loss": "little"}}, "rules.max_loss: 'little' is not a number"),
        ({"audit": {"together": 1}}, "audit.together: 1 is not true or false"),
        ({"audit": {"search_dtype": "int8"}}, "search_dtype"),
        ({"surprise": 1}, "unknown surprise"),
        ({"halves": {"test": {"datasets": ["two"], "seeds": []}}}, "seeds of others must be a list"),
        ({"halves": {"test": {"datasets": ["two", "two"], "seeds": [1]}}}, "names a data set twice"),
        ({"halves": {"test": {"datasets": [], "seeds": [1]}}}, "names no data set"),
        (
            {"halves": {"a": {"datasets": ["x"], "seeds": [1]}, "b": {"datasets": ["x"], "seeds": [2]}}},
            "data set x is in more than one half: a, b",
        ),
        (
            {"halves": {"a": {"datasets": ["x"], "seeds": [1]}, "b": {"datasets": ["y"], "seeds": [1]}}},
            "seed 1 is in more than one half: a, b",
        ),
        (
            {"halves": {"a": {"datasets": ["x"], "seeds": {"clean": [1], "plant": [2]}}}},
            "half a has no clean model with the seed of: plant 2",
        ),
        ({"datasets": {"three": {}}}, "datasets.three is in no half"),
        ({"learners": {"l": {"attacks": ["plnat"]}}}, "unknown attack 'plnat'"),
        (
            {"detectors": {"sniff": {"plugin": "s", "published": {"auc": 1.0}}}},
            "has a published 'auc'",
        ),
        ({"repairs": {"mend": {"plugin": "m", "detector": "sniffer"}}}, "unknown detector 'sniffer'"),
        ({"detectors": {"no label": {"plugin": "s"}}}, "is no label"),
        (
            {"attacks": {"a": {"plugin": "a", "clean": True}, "b": {"plugin": "b", "clean": True}}},
            "more than one attack says clean = true",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(changes: dict[str, Any], told: str) -> None:
    """One line for each fault."""
    assert told in problems(**changes)


def test_all_faults_are_told_at_once() -> None:
    """Nobody corrects a suite one error message at a time."""
    text = problems(
        datasets={"three": {}}, halves={"a": {"datasets": [], "seeds": [1], "attacks": ["plnat"]}}
    )
    assert len(text.splitlines()) == 3


def test_a_file_that_is_no_toml_is_a_usage_error(tmp_path: Path) -> None:
    """With the parser's own words."""
    (tmp_path / "suite.toml").write_text("name = ")
    with pytest.raises(UsageError, match=r"suite\.toml cannot be read"):
        read_suite(tmp_path / "suite.toml")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_suites_of_the_project_are_right(path: Path) -> None:
    """Each of them reads without a complaint."""
    assert read_suite(path).halves
