"""`clipsec run --config`: a file that says something else than the flags could is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from clipsec.cli import main


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('options = "fast"', "no table of options"),
        ("[options]\nclip-inspector = 3", "no table of options"),
        ('detectors = "decree"', "no list for 'detectors'"),
        ('reports = "sarif=x.sarif"', "no list for 'reports'"),
        ('pol = "pictures"', "unknown key 'pol'"),
        ("suspects = [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    """Exit code 4 and what to write instead, before anything is loaded."""
    file = tmp_path / "clipsec.toml"
    file.write_text(text)
    done = CliRunner().invoke(main, ["run", "--config", str(file)])
    assert done.exit_code == 4
    assert said in done.stderr
    assert "What to do:" in done.stderr
