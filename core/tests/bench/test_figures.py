"""The pictures of a bench."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from clipsec.bench import Case
from clipsec.bench._figures import cost_figure, figure_name, roc_figure, score_figure
from clipsec.results import Outcome

FORMS = "{http://www.w3.org/2000/svg}use"


def cases(*costs: float | None) -> list[Case]:
    """A clean model and a poisoned one by turns."""
    return [
        Case(
            model=f"m{place}",
            dataset="d",
            attack="a" if place % 2 else "",
            outcome=Outcome.CLEAN,
            score=place / 10,
            tower_seconds=cost,
            forward_rows=None if cost is None else int(100 * cost),
            backward_rows=None if cost is None else 50,
        )
        for place, cost in enumerate(costs)
    ]


def marks(svg: bytes) -> int:
    """How many marks (not ticks, which are near black) a picture has; it is well-formed XML."""
    root = ElementTree.fromstring(svg)
    return sum("fill-opacity" in form.get("style", "") for form in root.iter(FORMS))


def test_each_known_cost_has_a_mark() -> None:
    """In seconds and in rows; a model without a cost has none, and a detector without any keeps its line."""
    svg = cost_figure({"one": cases(1.0, 2.0, None), "two $x$": cases(300.0), "none": []})
    assert marks(svg) == 2 * 3
    text = svg.decode()
    assert "two $x$" in text
    assert "none" in text


def test_nothing_to_draw_is_drawn_without_a_complaint() -> None:
    """A half whose audits have not begun has a page too."""
    for svg in (cost_figure({"one": []}), roc_figure({"one": []}), score_figure([], None, "score")):
        assert marks(svg) == 0


def test_a_picture_is_the_same_every_time() -> None:
    """Nothing random and no clock, so that a page made again does not change."""
    given: dict[str, Any] = {"one": cases(1.0, 2.0, 3.0), "two": cases(2.0, 5.0)}
    assert cost_figure(given) == cost_figure(given)
    assert roc_figure(given) == roc_figure(given)


def test_pictures_of_halves_and_parts_have_names_of_their_own() -> None:
    """Labels may hold hyphens and dots."""
    assert figure_name("roc", "test") == "figures/test/roc.svg"
    assert figure_name("roc", "test", "base b.16") == "figures/test/roc-base-b.16.svg"
    assert figure_name("scores", "test", detector="a-b") == "figures/test/scores-a-b.svg"
