"""The page of a bench: one file that needs nothing else, runs nothing and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import attrs
import jinja2
from markupsafe import Markup

from clipsec import __version__
from clipsec.bench._figures import figure_name
from clipsec.bench._outcome import ALL, BenchResult, ModelLine, Row, VerdictLine
from clipsec.bench._repaired import repair_rows
from clipsec.reports import _text
from clipsec.results import Rate

_OWN_STYLE = """
main, .masthead, footer { max-width: 1280px; }
.drawing { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
article .drawing, section .drawing { margin: 18px 0; }
tr.published td, tr.published th { color: var(--soft); }
"""


@attrs.frozen
class Scored:
    """A detector on a set of models, with its picture."""

    row: Row
    scores: str


@attrs.frozen
class Part:
    """A half, or the part of it that shares a base or a learner."""

    title: str
    scope: str
    rows: tuple[Row, ...]
    roc: str
    cost: str
    detectors: tuple[Scored, ...]


def render_page(result: BenchResult, figures: Mapping[str, bytes]) -> str:
    """The whole bench as HTML, with the pictures that `clipsec.bench._figures.figures` drew.

    Everything from models, files and plugins is escaped, and the page forbids itself scripts, connections and
    any style but its own.
    """
    style = resources.files("clipsec.reports").joinpath("templates/report.css").read_text(encoding="utf-8")
    style += _OWN_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    built = [line for line in result.models if line.state == "built"]
    counted = {(line.half, line.name) for line in result.models if line.counts}
    asked = [line for line in result.verdicts if (line.half, line.model) in counted]
    return (
        _environment()
        .get_template("bench.html.j2")
        .render(
            result=result,
            style=Markup(style),
            style_digest=digest,
            version=__version__,
            halves=list(_parts(result, figures)),
            models=list(_model_rows(result)),
            apart=[line for line in built if not line.counts],
            failures=list(_failures(result)),
            built=len(built),
            counted=len(counted),
            asked=len(asked),
            answered=sum(line.state == "answered" for line in asked),
            repairs=repair_rows(result.repairs),
            rate=_rate,
            success=_success,
        )
    )


def _parts(result: BenchResult, figures: Mapping[str, bytes]) -> Iterator[Part]:
    def drawn(what: str, half: str, scope: str, detector: str = "") -> str:
        return base64.b64encode(figures[figure_name(what, half, scope, detector)]).decode("ascii")

    for half in result.halves:
        for scope in result.scopes:
            rows = tuple(row for row in result.rows if (row.half, row.scope) == (half, scope))
            if not rows:
                continue
            title = half if scope == ALL else f"{half}, {scope}"
            scored = [Scored(row, drawn("scores", half, scope, row.detector)) for row in rows if scope == ALL]
            roc, cost = drawn("roc", half, scope), drawn("cost", half, scope)
            yield Part(title, scope, rows, roc, cost, tuple(scored))


def _model_rows(result: BenchResult) -> Iterator[tuple[ModelLine, list[str]]]:
    verdicts = {(line.half, line.model, line.detector): line for line in result.verdicts}
    for line in result.models:
        if line.counts:
            yield line, [_cell(verdicts[line.half, line.name, label]) for label in result.detectors]


def _cell(line: VerdictLine) -> str:
    if line.state != "answered":
        return line.state
    text = line.outcome if line.found is None else f"{line.outcome} {line.found}"
    mark = "" if line.right else " (wrong)"
    return f"{text}{mark}, {_text.number(line.score)}"


def _failures(result: BenchResult) -> Iterator[tuple[str, str]]:
    for model in result.models:
        if model.state == "failed":
            yield f"model {model.name}", "; ".join(model.reasons)
    for line in result.verdicts:
        if line.state == "failed":
            yield f"{line.model} under {line.detector}", line.reason
    for repair in result.repairs:
        if repair.state == "failed":
            yield f"{repair.model} repaired by {repair.repair}", repair.reason


def _rate(rate: Rate | None) -> str:
    return _text.percent(None if rate is None else rate.value)


def _success(line: ModelLine) -> str:
    """Of the weakest trigger; of several, each by its target too."""
    text = _rate(line.measured.success)
    if not line.success_by_target:
        return text
    each = (f"{target} {_rate(rate)}" for target, rate in line.success_by_target.items())
    return f"{text} ({', '.join(each)})"


def _options(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipsec.bench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            value if isinstance(value, Markup) else _text.visible(value, longest=100_000_000)
        ),
    )
    environment.filters.update(
        percent=_text.percent,
        figure=_text.figure,
        plural=_text.plural,
        options=_options,
        lines=lambda text: Markup.escape(_text.visible(text, lines=True, longest=2_000)),
    )
    return environment
