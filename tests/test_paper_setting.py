"""The page on the paper's own setting, as far as it can be held without weights.

Its commands are accepted, its suite can be planned, and the data come out in CoOp's order.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from clipsec.bench import make_plan, read_suite
from clipsec.cli import main
from clipsec.data import LabelledSet
from clipsec.runner import make_options
from clipsec_registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "paper_setting.md").read_text(encoding="utf-8")
SUITE = ROOT / "tests" / "suites" / "paper.toml"
COMMANDS = re.findall(r"^    clipsec (.+)$", PAGE, re.M)
KINDS = {"run": "detectors", "repair": "repairs"}
"""Verbs whose options are of plugins, and of which kind."""


@pytest.fixture
def coop_split() -> ModuleType:
    place = importlib.util.spec_from_file_location("coop_split", ROOT / "scripts" / "coop_split.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def options_of(kind: str, name: str) -> Any:
    registry = Registry()
    return registry.load(registry.find(kind, name), strict=True).options


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:40])
def test_every_command_is_accepted(command: str) -> None:
    """Verbs, flags and the plugins' own options exist, and the values are allowed."""
    verb, *words = shlex.split(command)
    context = click.Context(main)
    known = main.get_command(context, verb)
    assert known is not None
    given = known.make_context(verb, words, parent=context).params
    if verb == "attack":
        values = dict(text.split("=") for text in given["settings"])
        make_options(options_of("attacks", given["name"]), values, given["name"])
    for text in given.get("plugin_options", ()):
        left, _, value = text.partition("=")
        name, _, key = left.partition(".")
        make_options(options_of(KINDS[verb], name), {key: value}, name)
    if verb == "bench":
        assert ROOT / given["suite"] == SUITE


def test_the_page_has_the_commands_it_is_about() -> None:
    """Loading, attacking, auditing, repairing, the study."""
    assert {command.split()[0] for command in COMMANDS} == {"run", "attack", "repair", "bench"}


def test_the_suite_is_the_papers_fifty_models(tmp_path: Path) -> None:
    """Ten data sets, a clean model and four attacks each; every plugin, setting and option is known here."""
    suite = read_suite(SUITE)
    for name in (*suite.halves["test"].datasets, suite.audit.pool):
        (tmp_path / str(name)).mkdir()
    plan = make_plan(suite, data=tmp_path, registry=Registry(), suite_folder=SUITE.parent, where="paper")
    assert len(plan.models) == 50
    assert sum(model.clean for model in plan.models) == 10
    for model in plan.models:
        options = model.options
        found = (options.method, options.split, options.shots, options.batch, options.learning_rate)
        assert found == ("CoCoOp", "seen", 16, 1, 0.002)
    published = next(one for one in plan.detectors if one.label == "clip-inspector-published")
    assert (published.options.decision, published.options.epsilon) == ("across", pytest.approx(4 / 255))
    assert (published.options.max_pictures, published.options.schedule) == (1000, "full")


def test_the_weights_are_named_as_open_clip_names_them() -> None:
    """The architecture has the tag, with OpenAI's activation."""
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, tag = read_suite(SUITE).bases["openai"].removeprefix("open_clip:").partition("@")
    assert architecture.endswith("-quickgelu")
    assert get_pretrained_cfg(architecture, tag)["quick_gelu"]


def test_classes_stand_in_the_order_of_the_split(tmp_path: Path, coop_split: ModuleType) -> None:
    """By label, not by name; with the names of the split, beyond ten classes too, and without `val`."""
    names = ["zebra", "Faces_easy", *(f"class {number}" for number in range(2, 12))]
    (tmp_path / "raw").mkdir()
    split: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for label in reversed(range(len(names))):
        for part in split:
            path = f"{part}{label}.jpg"
            (tmp_path / "raw" / path).write_bytes(path.encode())
            split[part].append((path, label, names[label]))
    coop_split.arrange(json.loads(json.dumps(split)), tmp_path / "raw", tmp_path / "data" / "tiny")
    for part in ("train", "test"):
        found = LabelledSet.from_folder(tmp_path / "data" / "tiny" / part)
        assert found.class_names == ("zebra", "Faces easy", *names[2:])
        assert [path.read_bytes().decode() for path in found.paths] == [
            f"{part}{label}.jpg" for label in range(len(names))
        ]


def test_a_split_that_does_not_fit_is_refused(tmp_path: Path, coop_split: ModuleType) -> None:
    """A missing picture, or a label with two names, and nothing is written."""
    (tmp_path / "a.jpg").write_bytes(b"a")
    for train, told in (
        ([["b.jpg", 0, "cat"]], "b.jpg"),
        ([["a.jpg", 0, "cat"], ["a.jpg", 0, "dog"]], "both 'cat' and 'dog'"),
    ):
        with pytest.raises(SystemExit, match=told):
            coop_split.arrange({"train": train, "test": []}, tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
