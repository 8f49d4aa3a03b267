"""The tutorial's own commands, read from the page and run in its order in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipsec_zoo import answers

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")

# The only replacements: downloads. The virtual environment sees the packages that are installed here, clipsec
# among them, so that the test needs no network; the user's own package is installed for real.
REPLACED = {
    "python3 -m venv .venv": f"{sys.executable} -m venv .venv --without-pip --system-site-packages",
    "pip install -c ": "true ",
    "pip install -e .": "python -m pip install -q --no-deps --no-build-isolation --no-index -e .",
}
LAUNCHERS = ("clipsec", "pytest")


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def script() -> str:
    lines = ["set -e"]
    for line in "".join(blocks()).splitlines():
        for before, after in REPLACED.items():
            if line.startswith(before):
                line = after + line.removeprefix(before)
        lines += [f"echo '$' {line.split()[0]}", line]
        if line == ". .venv/bin/activate":
            # Console scripts of what is installed elsewhere are not in the environment's own bin/.
            lines += [f'{name}() {{ python -m {name} "$@"; }}' for name in LAUNCHERS]
    return "\n".join(lines)


def test_the_page_has_its_steps() -> None:
    """Every replacement is still needed, and every step of the promise is a command on the page."""
    commands = "".join(blocks())
    for before in REPLACED:
        assert commands.count(before) == 1
    for promised in ("clipsec plugin new detector", "pytest", "clipsec list", "clipsec run zoo:demo-badclip"):
        assert promised in commands


@pytest.mark.slow
def test_the_tutorial_works_as_written(tmp_path: Path, environment: dict[str, str]) -> None:
    """From an empty folder: the package passes its tests, is listed, and tells the two demos apart."""
    # Our own packages, some of them editable, lie on this interpreter's path and on no fresh one.
    paths = [path for path in sys.path if path and Path(path).is_dir()]
    done = subprocess.run(
        ["bash", "-c", script()],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"detectors +acme-priors +0\.1\.0 +acme-priors +(not stated|[\w.-]+) +ok", done.stdout)
    assert re.search(r"local +not stated +ok", done.stdout)
    assert re.search(r"\d+ passed", done.stdout)
    bad, clean = done.stdout.split("$ clipsec")[-2:]
    assert "Backdoor found" in bad
    assert answers()["demo-badclip"].target in bad
    assert "No backdoor found" in clean
    assert "< 0.03" in clean
    assert len(list(tmp_path.glob("acme-priors/runs/*/report.html"))) == 2
