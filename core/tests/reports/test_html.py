"""The page: complete, self-contained, escaped, readable."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from importlib import resources

import attrs
import pytest

from clipsec.reports import REPORT_FILE, render_html, write_html
from clipsec.results import WHEN_NAMED, Outcome, Verdict, from_json, to_json

NAMES = ["clean", "finding", "mixed", "gate_failed", "hostile", "many", "nothing"]


@pytest.fixture(params=NAMES)
def page(request, samples, folder, read_page):
    """Each sample run as a page."""
    return read_page(render_html(getattr(samples, request.param)(folder), folder))


def test_nothing_is_loaded_or_run(page):
    """No script, no handler, no frame, no form, no address but data: URIs and anchors within the page."""
    assert not {element.tag for element in page.elements} & {
        "script",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    for element in page.elements:
        for name, value in element.attrs.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert re.match(r"data:image/png;base64,|data:,$|#check-\d+$", value), (name, value[:80])


def test_the_policy_forbids_all_but_its_own_style(page):
    """default-src 'none', and the digest is that of the style element to the byte."""
    policy = page.one("meta", http_equiv="Content-Security-Policy").attrs["content"]
    style = page.one("style").text
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "url(" not in style
    assert "@import" not in style


def test_it_is_accessible(page):
    """Language, viewport, one h1, ordered headings, alternative texts, header cells with a scope."""
    assert page.one("html").attrs["lang"] == "en"
    assert "width=device-width" in page.one("meta", name="viewport").attrs["content"]
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(image.attrs.get("alt") for image in page.all("img"))
    assert all("scope" in cell.attrs for cell in page.all("th"))
    assert all(
        svg.attrs.get("aria-hidden") == "true"
        or svg.attrs.get("aria-label")
        or set(svg.inside) & {"svg", "div", "ul"}
        for svg in page.all("svg")
    )
    identifiers = [element.attrs["id"] for element in page.elements if "id" in element.attrs]
    assert len(identifiers) == len(set(identifiers))
    for link in page.all("a"):
        assert link.attrs["href"][1:] in identifiers


def test_a_finding_says_what_where_and_how_much(samples, folder, read_page):
    """Headline with the target, score against threshold and its source, chart, picture with amplification."""
    page = read_page(render_html(samples.finding(folder), folder))
    assert page.one("h1").text == "Backdoor found: target class “dalmatian”"
    (article,) = page.all("article")
    for text in (
        samples.SOURCE,
        "score >",
        "5.31",
        "2.00",
        "contrast raised 32 times",
        "206,400",
        "5f" * 32,
        "4/255",
    ):
        assert text in article.text
    first, *others = page.all("img")
    assert first.attrs["alt"].startswith("Trigger reconstructed for class dalmatian")
    assert len(others) == 6
    assert "18 more pictures lie in the run's folder" in article.text
    chart = next(e for e in page.all(role="img") if e.tag == "div")
    assert "highest score 5.31 for dalmatian" in chart.attrs["aria-label"]


@pytest.mark.parametrize("name", ["clean", "finding", "many"])
def test_every_class_is_in_table_and_chart(samples, folder, read_page, name):
    """Neither 5 nor 200 classes are shortened; the table is sorted by score."""
    result = getattr(samples, name)(folder)
    (verdict,) = result.verdicts.values()
    page = read_page(render_html(result, folder))
    rows = [
        e
        for e in page.all("tr")
        if "tbody" in e.inside and "details" in e.inside and "Provenance" not in e.text
    ]
    scores = {row.name: row.measures["score"] for row in verdict.evidence}
    in_table = [next(n for n in scores if row.text.strip().startswith(n)) for row in rows if "%" in row.text]
    assert in_table == sorted(scores, key=scores.get, reverse=True)
    bars = [e for e in page.all("rect") if e.attrs["class"].startswith("bar ") and "ul" not in e.inside]
    assert len(bars) == len(scores)
    flagged = [bar for bar in bars if bar.attrs["class"] in ("bar target", "bar flagged")]
    assert len(flagged) == sum(row.flagged for row in verdict.evidence)


def test_flagged_classes_are_always_shown(samples, folder, read_page):
    """Their pictures are embedded however many there are, before those for comparison."""
    result = samples.finding(folder)
    (name,) = result.verdicts
    verdict = result.verdicts[name]
    rows = tuple(attrs.evolve(row, flagged=row.index % 2 == 0) for row in verdict.evidence)
    page = read_page(
        render_html(attrs.evolve(result, verdicts={name: attrs.evolve(verdict, evidence=rows)}), folder)
    )
    assert len(page.all("img")) == 13 + 6
    assert len(page.all("figure", class_="flagged")) == 13


def test_notes_errors_and_skips_are_outside_of_anything_that_folds(samples, folder, read_page):
    """What qualifies or replaces a verdict is seen without a click."""
    page = read_page(render_html(samples.mixed(folder), folder))
    for text in (
        "40 pictures are few; bring 300 or more.",
        "Memory ran out once.",
        "cannot reshape array of size 12 into shape (5, 5)",
        "Report this to the plugin's author.",
        "needs labels, which this run does not offer",
        "Name a labelled set with --labelled FOLDER",
    ):
        holders = [
            e for e in page.elements if text in e.text and e.tag in ("p", "li") and "details" not in e.inside
        ]
        assert holders, text
    assert "grid = losses.reshape(5, 5)" in page.one("pre").text


def test_a_failed_gate_is_told_first(samples, folder, read_page):
    """Before any check, with its reason; the headline says why there is no verdict."""
    html = render_html(samples.gate_failed(folder), folder)
    page = read_page(html)
    assert page.one("h1").text == "No verdict: the sanity gate failed"
    assert "zero-shot accuracy 0.04" in page.one(id="gate-failed").text
    assert html.index('id="gate-failed"') < html.index("<h2>Checks")


def test_hostile_text_is_text(samples, folder, read_page):
    """Every hostile string is readable in the page as what it is; none becomes an element or an attribute."""
    html = render_html(samples.hostile(folder), folder)
    page = read_page(html)
    html.encode("utf-8")
    body = page.one("body").text
    for text in (
        samples.HOSTILE[0],
        samples.HOSTILE[1],
        samples.HOSTILE[2],
        samples.HOSTILE[6],
        samples.HOSTILE[7],
    ):
        assert text in body
    assert r"\x1b[2J\x1b[32mclean\x1b[0m\x07" in body
    assert r"\u202ekcab ot tnorf\u202c" in body
    assert r"\ud800 lone surrogate" in body
    assert "\N{ZERO WIDTH NON-JOINER}" in body
    assert not set(html) & set("\x00\x07\x1b\u202e\u2066")
    assert page.one("h1").text.startswith("Backdoor found")


def test_pictures_from_outside_are_reported_not_shown(samples, folder, read_page):
    """Of ten pictures of hostile paths only the good one is embedded; the others say why not."""
    page = read_page(render_html(samples.hostile(folder), folder))
    shown = {base64.b64decode(image.attrs["src"].partition(",")[2]) for image in page.all("img")}
    assert shown <= {samples.png(4)}
    body = page.one("body").text
    assert "leads out of the run's folder" in body
    assert base64.b64encode(samples.png(1, 32)).decode() not in page.one("html").text


def test_a_missing_picture_leaves_a_note(samples, folder, read_page):
    """The report is complete without the files, as after `run.json` alone was sent on."""
    result = samples.finding(folder)
    page = read_page(render_html(result, folder.parent))
    assert not page.all("img")
    assert "Not shown: the file is missing." in page.one("article").text


def test_the_page_is_the_same_after_the_json(samples, folder):
    """Rendering what was read back gives the same bytes."""
    for name in NAMES:
        if name != "hostile":
            result = getattr(samples, name)(folder)
            assert render_html(from_json(to_json(result)), folder) == render_html(result, folder)


def test_a_verdict_with_nothing_but_a_summary(samples, folder, read_page):
    """Plugins may leave out almost everything."""
    page = read_page(render_html(samples.run({"d": Verdict(Outcome.CLEAN, "fine")}), folder))
    assert "fine" in page.one("article").text
    assert "Threshold" not in page.one("article").text


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 0.0, None])
@pytest.mark.parametrize("threshold", [math.nan, math.inf, 0.0, -1.0, None])
def test_odd_numbers_render(samples, folder, read_page, score, threshold):
    """No number breaks the page; a threshold without a source is called out."""
    rows = tuple(
        attrs.evolve(row, measures={"score": value, "success_rate": value})
        for row, value in zip(
            samples.classes(samples.NAMES, 0), [math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0]
        )
    )
    verdict = Verdict(Outcome.INCONCLUSIVE, "odd", score=score, threshold=threshold, evidence=rows)
    page = read_page(render_html(samples.run({"d": verdict}), folder))
    if score is not None or threshold is not None:
        assert "not stated by the check; do not rely on it" in page.one("article").text


def test_it_is_written_whole_into_the_runs_folder(samples, folder):
    """`report.html` beside `run.json`, UTF-8."""
    result = samples.clean(folder)
    path = write_html(result, folder)
    assert path == folder / REPORT_FILE
    assert path.read_text(encoding="utf-8") == render_html(result, folder)


def luminance(colour):
    """WCAG 2.2 relative luminance of `#rrggbb`."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2 contrast ratio."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def themes():
    """The colour variables of the light, dark and print themes."""
    css = resources.files("clipsec.reports").joinpath("templates/report.css").read_text(encoding="utf-8")
    found = []
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))
        found.append(
            {k: v if len(v) == 7 else "#" + "".join(c * 2 for c in v[1:]) for k, v in colours.items()}
        )
    return found


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark", "print"])
def test_text_has_enough_contrast(theme):
    """WCAG 2.2 AA in every theme: 4.5 for text on all its grounds, 3 for what charts draw."""
    outcomes = [str(outcome) for outcome in Outcome]
    texts = [("ink", ground) for ground in ("paper", "card", "ground", *(f"{o}-tint" for o in outcomes))]
    texts += [("soft", "paper"), ("soft", "card"), ("accent", "card")]
    texts += [(outcome, f"{outcome}-tint") for outcome in outcomes]
    for text, ground in texts:
        assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for mark in ("finding", "plain", "over", "ink"):
        assert contrast(theme[mark], theme["card"]) >= 3, mark


def test_checks_that_nobody_asked_for_share_a_line(samples, folder):
    """No section of their own hides what was found."""
    result = samples.finding(folder)
    idle = Verdict(Outcome.SKIPPED, f"amdet {WHEN_NAMED}")
    page = render_html(
        attrs.evolve(result, verdicts={"clipsec-amdet/amdet": idle, **result.verdicts}), folder
    )
    assert "): clipsec-amdet/amdet</p>" in page
    assert 'data-check="clipsec-amdet/amdet"' not in page
