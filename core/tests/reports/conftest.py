"""Sample runs as fixtures, and a strict reader of the page."""

from __future__ import annotations

import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import jsonschema
import pytest

SCHEMAS = Path(__file__).parents[3] / "tests" / "fixtures" / "reports"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The page as a list of elements with their text; raises when tags are not properly nested."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[SimpleNamespace] = []
        self._open: list[SimpleNamespace] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        element = SimpleNamespace(tag=tag, attrs=dict(attrs), text="", inside=[e.tag for e in self._open])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open, f"closed without being open: {tag}"
        assert self._open[-1].tag == tag, f"{tag} closed inside {self._open[-1].tag}"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag=None, **attrs):
        """Elements with this tag and these attributes (`data_x` for `data-x`)."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attrs.items()}
        return [
            element
            for element in self.elements
            if (tag is None or element.tag == tag)
            and all(element.attrs.get(key) == value for key, value in wanted.items())
        ]

    def one(self, tag=None, **attrs):
        (element,) = self.all(tag, **attrs)
        return element


@pytest.fixture(scope="session")
def samples():
    """The functions and constants of `samples.py`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("samples.py"))))


@pytest.fixture
def folder(tmp_path):
    """A run's folder inside a folder that does not belong to the run."""
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def read_page():
    """HTML text to a `Page`."""
    return Page


@pytest.fixture(scope="session")
def read_sarif():
    """SARIF text to its one run; raises when the official schema does not allow it."""
    schema = json.loads((SCHEMAS / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)

    def read(text):
        log = json.loads(text)
        validator.validate(log)
        assert log["version"] == "2.1.0"
        (run,) = log["runs"]
        return run

    return read


# What CI servers agree on: elements with their attributes and children, in this order.
JUNIT = {
    "testsuites": ("name tests failures errors", ("testsuite",)),
    "testsuite": ("name tests failures errors skipped time timestamp", ("properties", "testcase")),
    "properties": ("", ("property",)),
    "property": ("name value", ()),
    "testcase": ("name classname time", ("failure", "error", "skipped", "system-out")),
    "failure": ("type message", ()),
    "error": ("type message", ()),
    "skipped": ("type message", ()),
    "system-out": ("", ()),
}
COUNTED = {
    "tests": "testcase",
    "failures": "testcase/failure",
    "errors": "testcase/error",
    "skipped": "testcase/skipped",
}


@pytest.fixture(scope="session")
def read_junit():
    """JUnit text to its `testsuites` element; raises for what CI servers do not know or count otherwise."""

    def check(element):
        attributes, children = JUNIT[element.tag]
        assert set(element.keys()) == set(attributes.split())
        places = [children.index(child.tag) for child in element]
        assert places == sorted(places)
        for key, counted in COUNTED.items():
            if element.get(key) is not None:
                assert int(element.get(key)) == len(element.findall(f".//{counted}"))
        assert re.fullmatch(r"\d+\.\d{3}", element.get("time", "0.000"))
        for child in element:
            check(child)

    def read(text):
        root = ElementTree.fromstring(text)
        assert root.tag == "testsuites"
        check(root)
        for case in root.iter("testcase"):
            assert sum(case.find(tag) is not None for tag in ("failure", "error", "skipped")) <= 1
        return root

    return read
