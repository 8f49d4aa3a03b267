"""Error-rate cards: written, read, checked, shipped, and told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest

from clipsec.error_rates import ErrorRates, MeasuredOn, error_rate_line, from_text, schema, to_text
from clipsec.error_rates._card import PUBLISHED
from clipsec.errors import DataError
from clipsec.stats import auroc, proportion
from clipsec_registry import Registry

MEASURED = MeasuredOn(
    label="sniff",
    version="1.0",
    code="sha256:00",
    options={"epsilon": 0.5, "candidates": ()},
    suite="mini",
    suite_digest="ab",
    half="test",
    base="zoo:mini",
    base_digest="base-1",
    date="2026-01-01",
    clean=10,
    backdoored=20,
    no_answer=1,
    sensitivity=proportion(18, 20),
    specificity=proportion(10, 10),
    accuracy=proportion(28, 30),
    auroc=auroc([2.0, 3.0], [1.0]),
)


def card(*measurements: MeasuredOn, detector: str = "acme-checks/sniff") -> ErrorRates:
    return ErrorRates(detector=detector, measurements=measurements or (MEASURED,))


def test_a_card_comes_back_and_fulfils_its_schema() -> None:
    """The published schema is the one that the classes make."""
    text = to_text(card())
    assert to_text(from_text(text)) == text
    jsonschema.validate(json.loads(text), schema())
    assert json.loads(PUBLISHED.read_text()) == schema()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": "2.0"},
        {"measurements": [{"label": "x"}]},
        {"detector": None},
    ],
)
def test_what_is_no_card_is_refused(change: dict[str, Any]) -> None:
    """Wrong format, later major version, missing numbers."""
    body = {**json.loads(to_text(card())), **change}
    if change == {"detector": None}:
        del body["detector"]
    with pytest.raises(DataError):
        from_text(json.dumps(body))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed detector; returns where its card would lie."""
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "acme_checks"
    (package / "error_rates").mkdir(parents=True)
    # Importing it would be seen: a card is read without running anything of the plugin.
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    info = tmp_path / "acme_checks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-checks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipsec.detectors]\nsniff = acme_checks:Sniff\n")
    return package / "error_rates" / "sniff.json"


def line(options: dict[str, Any], base: str = "base-1") -> str:
    return error_rate_line(Registry().find("detectors", "sniff"), options, base)


OPTIONS = {"epsilon": 0.5, "candidates": ()}


def test_without_a_card_nothing_is_told(shipped: Path) -> None:
    """Most detectors have none."""
    assert line(OPTIONS) == ""


def test_the_line_tells_the_rates_and_what_they_were_measured_on(shipped: Path) -> None:
    """With the same options on the same base there is nothing to warn of."""
    shipped.write_text(to_text(card()))
    told = line(OPTIONS)
    assert "suite mini (test, base zoo:mini)" in told
    assert "18 of 20" in told
    assert "10 of 10" in told
    assert "AUROC 1.000" in told
    assert "may not hold" not in told


def test_the_line_warns_when_something_differs(shipped: Path) -> None:
    """Other options, another base, another version."""
    shipped.write_text(to_text(card(attrs.evolve(MEASURED, version="0.9"))))
    told = line({"epsilon": 0.1, "candidates": ()}, "base-2")
    assert told.endswith("measured with another base, other options, version 0.9, so they may not hold here")


def test_of_several_measurements_the_nearest_is_told(shipped: Path) -> None:
    """The one with the verdict's own options."""
    other = attrs.evolve(MEASURED, options={"epsilon": 0.1, "candidates": ()}, suite="far")
    shipped.write_text(to_text(card(other, MEASURED)))
    assert "suite mini" in line(OPTIONS)
    assert "suite far" in line({"epsilon": 0.1, "candidates": []})


def test_of_equally_near_measurements_the_nearer_options_and_the_larger_set_are_told(shipped: Path) -> None:
    """Both have other options: the one with fewer of them; with as many, the one with more models."""
    far = attrs.evolve(MEASURED, options={"epsilon": 0.1, "candidates": ("a",)}, suite="far")
    small = attrs.evolve(MEASURED, clean=2, suite="small")
    shipped.write_text(to_text(card(far, small, MEASURED)))
    assert "suite mini" in line({"epsilon": 0.5, "candidates": ("b",)})


def test_a_damaged_card_is_told_as_not_known(shipped: Path) -> None:
    """It neither ends the run nor passes for good rates; nor does the card of another detector."""
    shipped.write_text("{")
    assert line(OPTIONS).startswith("Error rates: not known;")
    shipped.write_text(to_text(card(detector="acme-checks/other")))
    assert "is the card of acme-checks/other" in line(OPTIONS)
