"""`clipsec list` and `clipsec plugin trust`: fast, without imports, and plain about what it does not know."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clipsec.cli._list import list_command
from clipsec.cli._plugin import plugin_group

COMMAND = "from clipsec.cli import main; main()"


def clipsec(*arguments: str, cwd: Path, command: str = COMMAND) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CLIPSEC_LOCK"}
    whole = [sys.executable, "-c", command, *arguments]
    return subprocess.run(whole, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)


def rows(done: Result) -> list[list[str]]:
    """The cells of the table; columns lie at least two spaces apart."""
    return [re.split(" {2,}", line.strip()) for line in done.output.splitlines()]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(list_command, arguments, catch_exceptions=False)


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed third-party report plugin, which ends the program when it is imported."""
    folder = tmp_path / "site"
    info = folder / "vendor_paper-2.0.dist-info"
    info.mkdir(parents=True)
    (folder / "vendor_paper.py").write_text("import sys\nsys.exit('no [red]paper[/red]')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor-paper\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[clipsec.reports]\npaper = vendor_paper:Paper\n")
    (info / "RECORD").write_text("vendor_paper.py,,\nvendor_paper-2.0.dist-info/entry_points.txt,,\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    return folder


def test_it_is_fast(tmp_path):
    """A fresh process answers in under 0.4 s; the best of several runs, as other work may slow some."""
    best = float("inf")
    for _ in range(15):
        began = time.perf_counter()
        done = clipsec("list", cwd=tmp_path)
        best = min(best, time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
        if best < 0.4:
            break
    assert best < 0.4


def test_it_imports_neither_torch_nor_plugins(tmp_path):
    """Listing imports no plugin, nothing that computes, and not the loader of plugins either."""
    plugins = json.loads(clipsec("list", "--json", cwd=tmp_path).stdout)["plugins"]
    offered = {plugin["value"].partition(":")[0] for plugin in plugins}
    assert offered
    at_exit = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    imported = set(clipsec("list", cwd=tmp_path, command=at_exit + COMMAND).stderr.split())
    assert "clipsec.cli._list" in imported
    heavy = {"torch", "numpy", "scipy", "open_clip", "transformers", "timm", "stevedore", "clipsec.models"}
    assert not imported & (offered | heavy)


def test_a_plugin_that_seems_fine_was_not_imported(vendor):
    """Without --load, `ok` is not more than it says."""
    assert ["reports", "paper", "2.0", "vendor-paper", "not stated", "ok", "not imported yet"] in rows(
        invoke()
    )
    assert "vendor_paper" not in sys.modules


def test_load_shows_what_comes_of_it(vendor):
    """With --load, the row of a plugin that fails says why, and what to do, and the command succeeds."""
    done = invoke("--load", "--kind", "reports")
    assert done.exit_code == 0
    reason = "it called sys.exit(no [red]paper[/red]) while being imported (vendor_paper.py:2)"
    assert ["reports", "paper", "2.0", "vendor-paper", "not stated", "failed", reason] in rows(done)
    assert "vendor-paper/paper: Report it to the authors of vendor-paper" in done.output


def test_kinds_select(vendor):
    """--kind shows that kind only, and says so when there is nothing."""
    listed = json.loads(invoke("--json", "--kind", "reports").output)["plugins"]
    assert {plugin["kind"] for plugin in listed} == {"reports"}
    assert "No plugin is installed of the kind engines." in invoke("--kind", "engines").output
    assert clipsec("list", "--kind", "colours", cwd=vendor).returncode == 4


def test_a_lock_that_cannot_be_read_is_an_error(tmp_path):
    """A malformed or missing lock ends the command with code 2 and a remedy, and lists nothing."""
    (tmp_path / "clipsec.lock").write_text("not a lock")
    for arguments in (("list",), ("list", "--lock", "absent.lock")):
        done = clipsec(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "lock file" in done.stderr
        assert "clipsec plugin trust" in done.stderr
        assert "Traceback" not in done.stderr


def test_trust_then_list(vendor, tmp_path):
    """`plugin trust` writes a lock that `list` picks up by itself; what it does not name is untrusted."""
    done = CliRunner().invoke(plugin_group, ["trust", "Vendor_Paper"], catch_exceptions=False)
    assert "trusted vendor-paper 2.0 (2 files)" in done.output
    assert (tmp_path / "clipsec.lock").exists()
    listed = json.loads(invoke("--json").output)
    assert listed["lock"] == str(tmp_path / "clipsec.lock")
    status = {plugin["canonical_name"]: plugin["status"] for plugin in listed["plugins"]}
    assert status.pop("vendor-paper/paper") == "ok"
    assert set(status.values()) <= {"untrusted"}
    assert "Under the lock" in invoke().output


def test_trust_keeps_and_updates(vendor, tmp_path):
    """Naming one distribution renews that one; naming none renews all; nothing is imported."""
    trust = ["trust", "vendor-paper", "--lock", str(tmp_path / "my.lock")]
    assert "trusted vendor-paper" in CliRunner().invoke(plugin_group, trust).output
    assert "kept vendor-paper" in CliRunner().invoke(plugin_group, trust).output
    (vendor / "vendor_paper.py").write_text("raise AssertionError('was imported')")
    assert "are not those in" in invoke("--lock", str(tmp_path / "my.lock")).output
    assert "updated vendor-paper" in CliRunner().invoke(plugin_group, trust).output
    everything = CliRunner().invoke(plugin_group, ["trust", "--lock", str(tmp_path / "all.lock")])
    assert "trusted vendor-paper" in everything.output
    assert "vendor_paper" not in sys.modules


def test_trust_of_a_stranger(vendor, tmp_path):
    """A name that is not installed is refused, and no lock is written."""
    done = clipsec("plugin", "trust", "no-such-plugin", cwd=tmp_path)
    assert done.returncode == 4
    assert "there is no plugin called no-such-plugin" in done.stderr
    assert not (tmp_path / "clipsec.lock").exists()
