"""The HTML report in a real browser: it looks as meant, and nothing in it runs or calls anywhere."""

from __future__ import annotations

import html
import http.server
import json
import os
import re
import runpy
import shutil
import subprocess
import threading
from pathlib import Path

import attrs
import pytest
from PIL import Image

from clipsec.reports import render_exposure_html, write_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
SAMPLES = Path(__file__).parents[1] / "core" / "tests" / "reports" / "samples.py"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]


class Browser:
    """Headless Chromium, started anew for every page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = ""
        """What the last page and its violations wrote to the console."""

    def run(self, page: Path, *flags: str, width: int = 1280, height: int = 1600, dark: bool = False) -> str:
        command = [
            str(BROWSER),
            "--headless=new",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            f"--user-data-dir={self.folder / 'profile'}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium refuses to sandbox root's processes
            *flags,
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        log = done.stderr.decode("utf-8", "replace")
        self.console = "\n".join(line for line in log.splitlines() if ":CONSOLE" in line)
        return done.stdout.decode("utf-8")

    def dom(self, page: Path, **settings) -> str:
        """The document after loading, serialised."""
        return self.run(page, "--dump-dom", **settings)

    def screenshot(self, page: Path, **settings) -> Image.Image:
        """The window as a picture."""
        path = self.folder / "screenshot.png"
        self.run(page, f"--screenshot={path}", **settings)
        with Image.open(path) as picture:
            return picture.convert("RGB")

    def probe(self, page: Path, expression: str, width: int = 1280):
        """The value of a JavaScript expression in a copy of the page without its policy, in a frame.

        In this copy escaping alone has to hold off what the page was given. A frame, because Chromium's own
        windows are at least 500 pixels wide.
        """
        text = page.read_text(encoding="utf-8")
        bare, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert removed == 1
        answer = f"parent.postMessage(escape(JSON.stringify({expression})), '*')"
        tell = f"<script>addEventListener('load', () => {answer})</script>"
        page.with_name("framed.html").write_text(bare.replace("</main>", f"</main>{tell}"), encoding="utf-8")
        outer = page.with_name("probe.html")
        outer.write_text(
            f"<script>onmessage = e => document.body.append(e.data, '|')</script>"
            f"<iframe src=framed.html style='border: 0; width: {width}px; height: 800px'></iframe>PROBE"
        )
        found = re.search(r"PROBE\s*(.+?)\|", self.dom(outer))
        assert found, "the probe did not run"
        return json.loads(re.sub(r"%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), found[1]))


@pytest.fixture
def browser(tmp_path):
    return Browser(tmp_path)


@pytest.fixture(scope="module")
def samples():
    return runpy.run_path(str(SAMPLES))


@pytest.fixture
def listener():
    """A web server on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def report(samples, name, folder):
    folder = folder / name
    folder.mkdir()
    return write_html(samples[name](folder), folder)


def colour(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def test_the_harness_sees_requests_scripts_and_console_messages(browser, tmp_path, listener):
    """Without this control, the tests below could pass on a browser that does nothing."""
    address, asked = listener
    page = tmp_path / "control.html"
    page.write_text(
        f"<title>a</title><img src='{address}/image'>"
        "<script>document.title = 'owned'; console.error('seen')</script>"
    )
    assert "<title>owned</title>" in browser.dom(page)
    assert "/image" in asked
    assert "seen" in browser.console


def test_a_finding_is_seen_at_a_glance(browser, samples, tmp_path):
    """The first screen says what was found, on its own colour; the console stays silent."""
    page = report(samples, "finding", tmp_path)
    dom = browser.dom(page)
    assert "<h1>Backdoor found: target class “dalmatian”</h1>" in dom
    assert not browser.console
    picture = browser.screenshot(page, height=900)
    assert picture.size == (1280, 900)
    assert picture.getpixel((4, 450)) == colour("#f6f7f9")
    tint = colour("#fdecea")
    share = sum(pixel == tint for pixel in picture.crop((0, 40, 1280, 240)).get_flattened_data()) / (
        1280 * 200
    )
    assert share > 0.3
    assert not browser.console


def test_dark_on_a_phone(browser, samples, tmp_path):
    """The dark theme is dark, and the trigger's picture is drawn at visible contrast."""
    page = report(samples, "finding", tmp_path)
    picture = browser.screenshot(page, width=390, height=4600, dark=True)
    assert picture.getpixel((2, 2300)) == colour("#0f141b")
    pixels = set(picture.crop((0, 1500, 390, 4600)).get_flattened_data())
    assert {(255, 255, 0), (0, 0, 255), (255, 0, 255)} <= pixels


MEASURES = """[
    innerWidth,
    document.documentElement.scrollWidth,
    document.querySelector("h1").checkVisibility(),
    Math.min(...[...document.querySelectorAll("article h2, .summary, .chart")].map(e => e.offsetWidth)),
]"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["mixed", "hostile", "many"])
def test_nothing_sticks_out(browser, samples, tmp_path, name, width):
    """The page does not scroll sideways; the verdict is visible and no text is squeezed."""
    inner, scrolled, visible, narrowest = browser.probe(
        report(samples, name, tmp_path), MEASURES, width=width
    )
    assert inner == width
    assert scrolled <= inner
    assert visible
    assert narrowest > 100


def test_a_page_that_sticks_out_would_be_noticed(browser, samples, tmp_path):
    """The control of the test above."""
    page = report(samples, "mixed", tmp_path)
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<h1>", "<h1><svg width=600 height=9></svg>"), encoding="utf-8")
    inner, scrolled, *_ = browser.probe(page, MEASURES, width=390)
    assert scrolled > inner


def test_hostile_names_do_nothing(browser, samples, tmp_path, listener):
    """No script runs, no request leaves, no element is made of a name: with the policy, and without it."""
    address, asked = listener
    attacks = [text.replace("http://example.invalid", address) for text in samples["HOSTILE"]]
    attacks.append(f'"><img src="{address}/image"><link rel=stylesheet href="{address}/style">')
    attacks.append(f"'-alert(1)-' style='background:url({address}/background)'")
    folder = tmp_path / "hostile"
    folder.mkdir()
    result = samples["hostile"](folder)
    ((name, verdict), *others) = result.verdicts.items()
    verdict = attrs.evolve(verdict, notes=tuple(attacks), summary="".join(attacks), target=attacks[0])
    result = attrs.evolve(result, verdicts={attacks[-1] + name: verdict, **dict(others)})
    page = write_html(result, folder)

    dom = browser.dom(page)
    assert not browser.console
    assert "<script" not in dom
    assert html.escape(attacks[0], quote=False) in dom
    browser.screenshot(page)
    assert not browser.console

    scripts, owned, title, handlers = browser.probe(
        page,
        "[document.scripts.length, document.body.dataset.owned || null, document.title,"
        " [...document.querySelectorAll('*')].filter(e => e.onload || e.onerror || e.onclick).length]",
    )
    assert (scripts, owned, handlers) == (1, None, 0)
    assert title.startswith("Backdoor found")
    assert not browser.console
    assert not asked


def test_the_exposure_matrix_fits_a_phone_and_runs_nothing(browser, tmp_path):
    """Texts of models stay texts even without the page's policy; only tables scroll; no violation."""
    sample = runpy.run_path(str(SAMPLES.with_name("test_exposure_page.py")))["sample"]
    page = tmp_path / "exposure.html"
    page.write_text(render_exposure_html(sample()), encoding="utf-8")
    found = browser.probe(
        page,
        "{wide: document.documentElement.scrollWidth, tiles: document.querySelectorAll('.tile').length,"
        " scripts: document.scripts.length, ran: window.ran || 0}",
        width=375,
    )
    # The one script is the probe's own.
    assert found == {"wide": 375, "tiles": 8, "scripts": 1, "ran": 0}
    browser.dom(page)
    assert browser.console == ""
