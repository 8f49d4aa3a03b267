"""The page of a bench: one file that needs nothing else, runs nothing and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import attrs
import jinja2
from markupsafe import Markup

from clipsec import __version__
from clipsec.bench._figures import roc_figure, score_figure
from clipsec.bench._measured import Share
from clipsec.bench._outcome import ALL, BenchResult, ModelLine, Row, VerdictLine
from clipsec.bench._repaired import repair_rows
from clipsec.reports import _text

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
    detectors: tuple[Scored, ...]


def render_page(result: BenchResult) -> str:
    """The whole bench as HTML. Everything from models, files and plugins is escaped, and the page forbids
    itself scripts, connections and any style but its own."""
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
            halves=list(_parts(result)),
            models=list(_model_rows(result)),
            apart=[line for line in built if not line.counts],
            failures=list(_failures(result)),
            built=len(built),
            counted=len(counted),
            asked=len(asked),
            answered=sum(line.state == "answered" for line in asked),
            repairs=repair_rows(result.repairs),
            rate=_rate,
        )
    )


def _parts(result: BenchResult) -> Iterator[Part]:
    for half in result.halves:
        for scope in result.scopes:
            rows = tuple(row for row in result.rows if (row.half, row.scope) == (half, scope))
            cases = {row.detector: result.cases[half, scope, row.detector] for row in rows}
            if not rows:
                continue
            title = half if scope == ALL else f"{half}, {scope}"
            scored = [
                Scored(row, _encoded(score_figure(cases[row.detector], *_threshold(result, row))))
                for row in rows
                if scope == ALL
            ]
            yield Part(title, scope, rows, _encoded(roc_figure(cases)), tuple(scored))


def _threshold(result: BenchResult, row: Row) -> tuple[float | None, str]:
    """The threshold of a detector if all its verdicts have the same, and what to call the score."""
    found = {
        line.threshold
        for line in result.verdicts
        if line.half == row.half and line.detector == row.detector and line.state == "answered"
    }
    return (found.pop() if len(found) == 1 else None), f"score of {row.detector}"


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


def _rate(share: Share | None) -> str:
    return _text.percent(None if share is None else share.value)


def _encoded(svg: bytes) -> str:
    return base64.b64encode(svg).decode("ascii")


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


def _finalise(value: Any) -> Any:
    """Plain interpolation shows what is hidden too; what is embedded is long."""
    return value if isinstance(value, Markup) else _text.visible(value, longest=1 << 30)
