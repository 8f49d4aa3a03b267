"""The HTML report: one file that needs nothing else, runs nothing and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import jinja2
from markupsafe import Markup

from clipsec import __version__
from clipsec.reports import _text
from clipsec.reports._chart import Chart, chart_of
from clipsec.reports._evidence import SUCCESS, Evidence, evidence_of
from clipsec.reports._pictures import Picture, embed
from clipsec.reports._words import CAVEAT, WORDS, headline, row_word, tally, unasked
from clipsec.results import Artifact, ClassEvidence, RunResult, Verdict

MOST_PICTURES = 6
"""Trigger pictures of classes that are not flagged which a check shows, the most suspicious first."""


@attrs.frozen
class Shown:
    """A class whose trigger is shown."""

    row: ClassEvidence
    is_target: bool
    score: str
    success: str
    pictures: tuple[Picture, ...]


@attrs.frozen
class Check:
    """One verdict as the template wants it."""

    number: int
    name: str
    verdict: Verdict
    evidence: Evidence
    chart: Chart | None
    marked: tuple[Shown, ...]
    """The flagged classes and the target, as far as they have a picture."""
    others: tuple[Shown, ...]
    """For comparison."""
    caption: str
    """The description of all shown pictures, if they have the same."""
    row: str
    """What a row of its evidence is."""
    not_shown: int
    """Classes that have a picture which is not embedded."""
    pictures: tuple[Picture, ...]
    """Of the verdict as a whole."""
    files: tuple[Artifact, ...]


def render_html(result: RunResult, folder: str | Path) -> str:
    """One self-contained page. `folder` is where the run lies; pictures are taken from there only.

    Everything from models, files and plugins is escaped, and the page forbids itself scripts, connections and
    any style but its own. Checks that nobody asked for share a line. A picture that is missing or was changed
    is reported in its place.
    """
    folder = Path(folder)
    asked = {name: verdict for name, verdict in result.verdicts.items() if not unasked(verdict)}
    checks = [
        _check(position, name, verdict, folder, row_word(result, verdict))
        for position, (name, verdict) in enumerate(asked.items(), start=1)
    ]
    style = page_style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            checks=checks,
            others=[name for name in result.verdicts if name not in asked],
            style=Markup(style),
            style_digest=digest,
            headline=headline(result),
            tally=tally(result),
            caveat=CAVEAT,
            version=__version__,
        )
    )


def _check(position: int, name: str, verdict: Verdict, folder: Path, row: str) -> Check:
    evidence = evidence_of(verdict)
    with_picture = [row for row in evidence.rows if any(_is_picture(item) for item in row.artifacts)]
    marked = [row for row in with_picture if row.flagged or evidence.is_target(row)]
    others = [row for row in with_picture if row not in marked]
    shown = [_shown(evidence, row, folder) for row in marked + others[:MOST_PICTURES]]
    captions = {item.description for one in shown for item in one.pictures}
    return Check(
        number=position,
        name=name,
        verdict=verdict,
        evidence=evidence,
        chart=chart_of(evidence, verdict.threshold),
        marked=tuple(shown[: len(marked)]),
        others=tuple(shown[len(marked) :]),
        caption=captions.pop() if len(captions) == 1 else "",
        row=row,
        not_shown=len(with_picture) - len(shown),
        pictures=tuple(embed(item, folder) for item in verdict.artifacts if _is_picture(item)),
        files=tuple(_files(verdict)),
    )


def _shown(evidence: Evidence, row: ClassEvidence, folder: Path) -> Shown:
    return Shown(
        row=row,
        is_target=evidence.is_target(row),
        score=evidence.text(row, evidence.score_key),
        success=_text.percent(row.measures[SUCCESS]) if SUCCESS in row.measures else "",
        pictures=tuple(embed(item, folder) for item in row.artifacts if _is_picture(item)),
    )


def _is_picture(artifact: Artifact) -> bool:
    return artifact.kind == "picture"


def _files(verdict: Verdict) -> Iterator[Artifact]:
    yield from verdict.artifacts
    for row in verdict.evidence:
        yield from row.artifacts


@cache
def page_style() -> str:
    """The style sheet of all pages."""
    return resources.files("clipsec.reports").joinpath("templates/report.css").read_text(encoding="utf-8")


@cache
def page_environment() -> jinja2.Environment:
    """The environment of all pages: everything is escaped, what is hidden is shown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipsec.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Plain interpolation shows what is hidden too: no place in a template can forget to.
        finalize=_finalise,
    )
    environment.filters.update(
        number=_text.number,
        figure=_text.figure,
        moment=_text.moment,
        percent=_text.percent,
        duration=_text.duration,
        memory=_text.memory,
        plural=_text.plural,
        lines=lambda text: Markup.escape(_text.visible(text, lines=True, longest=2_000)),
        listing=lambda text: Markup.escape(_text.visible(text, lines=True, longest=20_000)),
        title=_text.title,
        plain=_plain,
    )
    environment.globals.update(words=WORDS, relation=_text.relation, compared=_text.compared)
    return environment


def _finalise(value: Any) -> Any:
    return value if isinstance(value, Markup) else _text.visible(value)


def _plain(value: Any) -> str:
    """An option's value as people would write it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "not set", True: "yes", False: "no"}[value]
    return _text.number(value, 6) if isinstance(value, float) else str(value)
