"""`clipsec plugin new`: every kind gives a package that installs, is listed, and passes its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clipsec.errors import StoreError, UsageError
from clipsec.scaffold import KINDS, new_plugin

Done = subprocess.CompletedProcess[str]


def python(*arguments: str | Path, cwd: Path, **environment: str) -> Done:
    inherited = {key: value for key, value in os.environ.items() if key not in ("CLIPSEC_LOCK", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of each kind, made by the command, with the names a user might choose."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        done = python("-m", "clipsec", "plugin", "new", kind, f"acme-{kind}", "-o", folder, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "pip install -e '.[test]'" in done.stdout
    return folder


@pytest.fixture(scope="module")
def site(packages: Path) -> Path:
    """All of them installed by pip, from their folders, into a place of their own."""
    site = packages / "site"
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    folders = [packages / f"acme-{kind}" for kind in KINDS]
    done = python("-m", "pip", "install", *options, "--target", site, *folders, cwd=packages)
    assert done.returncode == 0, done.stderr
    return site


def test_each_is_listed_and_loads(packages: Path, site: Path) -> None:
    """`clipsec list --load` shows each under its kind and name, usable, with the summary of its class."""
    done = python("-m", "clipsec", "list", "--load", "--json", cwd=packages, PYTHONPATH=str(site))
    rows = {row["canonical_name"]: row for row in json.loads(done.stdout)["plugins"]}
    for name, kind in KINDS.items():
        row = rows[f"acme-{name}/acme-{name}"]
        assert (row["kind"], row["status"], row["loaded"]) == (kind.value, "ok", True), row
        assert not row["summary"].startswith("A clipsec"), row


@pytest.mark.slow
def test_each_passes_its_own_tests(packages: Path, site: Path) -> None:
    """The tests that come with them run the conformance kit on every kind that has a battery, and pass.

    Those of the detector are run by the test of the tutorial.
    """
    tests = [packages / f"acme-{kind}" / "tests" for kind in KINDS if kind != "detector"]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
                  *tests, cwd=packages, PYTHONPATH=str(site))  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout


def test_the_files_are_what_they_should_be(packages: Path) -> None:
    """CI is YAML that runs the three commands, no template mark is left, and the code is free of lint."""
    for kind in KINDS:
        folder = packages / f"acme-{kind}"
        workflow = yaml.safe_load((folder / ".github/workflows/test.yml").read_text())
        assert [step.get("run") for step in workflow["jobs"]["test"]["steps"]][2:] == [
            'pip install -e ".[test]"',
            "pytest",
            "clipsec list --load",
        ]
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".yml":
                assert "{{" not in path.read_text()
    ruff = ["-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,W,B,UP"]
    done = python(*ruff, *[packages / f"acme-{kind}" for kind in KINDS], cwd=packages)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name",
    ["", "a b", "ä", "1st", "-x", "x-", "../x", "class", "json", "numpy", "clipsec-x", "clip-inspector",
     "coop", "Clip_Inspector", "local", "clipsec"],
)  # fmt: skip
def test_a_name_that_cannot_be_used_writes_nothing(tmp_path: Path, name: str) -> None:
    """Not a package name, not an identifier, Python's, installed, or ours: refused with a remedy."""
    with pytest.raises(UsageError) as caught:
        new_plugin("detector", name, tmp_path / "there")
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder, a file or a link of that name is not touched, and nothing lies beside it."""
    (tmp_path / "acme-one").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        new_plugin("report", "acme-one", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["acme-one"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file where the parent should be: one sentence and a remedy, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        new_plugin("report", "acme-one", tmp_path / "file")
    assert "-o" in caught.value.remedy
    with pytest.raises(UsageError, match="no kind"):
        new_plugin("engine", "acme-one", tmp_path)
