"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def python_block() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return block


def test_the_python_example_is_ten_lines() -> None:
    """The README promises ten lines; blank ones are free."""
    assert len([line for line in python_block().splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path, pool_folder: Path, environment: dict[str, str]) -> None:
    """The README's example, copied out, prints a verdict and a folder with a report in it."""
    (tmp_path / "pictures").mkdir()
    for picture in sorted(pool_folder.glob("*.jpg"))[:32]:
        (tmp_path / "pictures" / picture.name).symlink_to(picture)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", python_block()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^clipsec-clip-inspector/clip-inspector-plus (clean|finding|inconclusive)", done.stdout, re.M
    )
    (folder,) = re.findall(r"^report: (.+)$", done.stdout, re.M)
    assert (tmp_path / folder / "report.html").is_file()


def test_make_targets_of_the_readme_exist() -> None:
    """Every `make X` in the README is a target."""
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
