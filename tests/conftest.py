"""Fixtures that cross packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import clipsec_zoo
from clipsec.cli import main

Clipsec = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own, so that nothing is left over from earlier runs, nor left behind."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache_folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache_folder)}


@pytest.fixture
def clipsec(environment: dict[str, str], tmp_path: Path) -> Clipsec:
    """Run the command in a folder of its own: clipsec("run", "zoo:demo-clean")."""

    def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clipsec", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def clipsec_here(cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clipsec:
    """The same in this process, which spares a second import of torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder))
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = CliRunner().invoke(main, arguments)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def pool_folder() -> Path:
    return clipsec_zoo.image_pool_folder()
