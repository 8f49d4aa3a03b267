"""The recipes of docs/ci.md and the pre-commit hooks: their commands are run as they stand there."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

import clipsec_zoo

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
SARIF_SCHEMA = ROOT / "tests" / "fixtures" / "reports" / "sarif-schema-2.1.0.json"


def block(kind: str, word: str) -> str:
    """The one block of this kind that holds the word."""
    found = re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    (text,) = (text for text in found if word in text)
    return text


def github_commands() -> list[str]:
    (job,) = yaml.safe_load(block("yaml", "runs-on"))["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def gitlab_commands() -> list[str]:
    return list(yaml.safe_load(block("yaml", "image: python"))["clipsec"]["script"])


def hooks() -> dict[str, dict[str, object]]:
    entries = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    return {entry["id"]: entry for entry in entries}


def hook_command() -> str:
    (repo,) = yaml.safe_load(block("yaml", "hooks:"))["repos"]
    (use,) = repo["hooks"]
    return shlex.join([*shlex.split(str(hooks()[use["id"]]["entry"])), *use["args"]])


def words_of(command: str) -> list[str]:
    """The words of a clipsec command, with the names of files as a shell would expand them."""
    clipsec, *words = shlex.split(command)
    assert clipsec == "clipsec"
    return [name for word in words for name in (glob.glob(word) if "*" in word else [word])]


def clipsec_part(commands: list[str]) -> str:
    (command,) = (command for command in commands if command.startswith("clipsec "))
    return command


QUICK = """
import attrs
from clipsec.results import Outcome, Verdict

@attrs.frozen
class Options:
    says: str = "clean"

class Quick:
    summary, api_version, needs, options, references = "answers at once", "1.0", frozenset(), Options, ()

    def detect(self, context):
        outcome = Outcome(context.options.says)
        return Verdict(outcome, "said so", target="pizza" if outcome is Outcome.FINDING else None)
"""


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], None]:
    """A project as the document describes it; calling it sets what a detector that answers at once says."""
    shutil.copytree(clipsec_zoo.deliveries()["demo-clean"], tmp_path / "deliveries" / "model")
    (tmp_path / "pictures").mkdir()
    for picture in sorted(clipsec_zoo.image_pool_folder().glob("*.jpg"))[:16]:
        shutil.copy(picture, tmp_path / "pictures")
    (tmp_path / "quick.py").write_text(QUICK)
    settings = block("toml", "suspects")
    assert set(tomllib.loads(settings)) == {"suspects", "pool", "reports"}

    def says(outcome: str) -> None:
        quick = f'detectors = ["quick"]\nplugin_paths = ["quick.py"]\n[options.quick]\nsays = "{outcome}"\n'
        (tmp_path / "clipsec.toml").write_text(settings + quick)

    return says


@pytest.mark.parametrize(("outcome", "code"), [("clean", 0), ("finding", 0), ("inconclusive", 2)])
def test_github(
    clipsec_here, project: Callable[[str], None], tmp_path: Path, outcome: str, code: int
) -> None:
    """What later steps upload is there and valid; a finding is left to code scanning, no answer is not."""
    project(outcome)
    done = clipsec_here(*words_of(clipsec_part(github_commands())))
    assert done.returncode == code, done.stderr
    log = json.loads((tmp_path / "clipsec.sarif").read_text())
    jsonschema.Draft4Validator(json.loads(SARIF_SCHEMA.read_text())).validate(log)
    (run,) = log["runs"]
    assert run["properties"]["outcome"] == outcome
    assert run["invocations"][0]["executionSuccessful"] is (outcome != "inconclusive")
    (*_, upload) = yaml.safe_load(block("yaml", "runs-on"))["jobs"]["clipsec"]["steps"]
    for name in upload["with"]["path"].split():
        assert (tmp_path / name).exists()
    assert f'data-outcome="{outcome}"' in (tmp_path / "clipsec.html").read_text()


def test_gitlab_the_hook_and_the_baseline(
    clipsec_here, project: Callable[[str], None], tmp_path: Path
) -> None:
    """A finding fails the job and the push, until it stands in the baseline; JUnit has it as a failure."""
    project("finding")
    gitlab = clipsec_here(*words_of(clipsec_part(gitlab_commands())))
    assert gitlab.returncode == 1, gitlab.stderr
    artifacts = yaml.safe_load(block("yaml", "image: python"))["clipsec"]["artifacts"]
    for name in artifacts["paths"]:
        assert (tmp_path / name).exists()
    suites = ElementTree.parse(tmp_path / artifacts["reports"]["junit"]).getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("1", "1", "0")
    assert clipsec_here(*words_of(hook_command())).returncode == 1
    copy, known = block("bash", "cp ").splitlines()
    subprocess.run(["bash", "-c", copy], cwd=tmp_path, check=True)
    assert clipsec_here(*words_of(known)).returncode == 0
    (diff,) = block("bash", "clipsec diff").splitlines()
    done = clipsec_here(*words_of(diff))
    assert (done.returncode, "no check is worse" in done.stdout) == (0, True)
    project("clean")
    assert clipsec_here(*words_of(known)).returncode == 0
    gone = clipsec_here(*words_of(diff))
    assert (gone.returncode, "finding gone" in " ".join(gone.stdout.split())) == (2, True)


def test_what_is_uploaded_holds_no_pass(tmp_path: Path) -> None:
    """Code scanning would show it as an alert."""
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    (command,) = (command for command in github_commands() if command.startswith("jq "))
    kinds = ("pass", "fail", "open", "notApplicable")
    log = {"version": "2.1.0", "runs": [{"results": [{"kind": kind} for kind in kinds]}]}
    (tmp_path / "clipsec.sarif").write_text(json.dumps(log))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    uploaded = json.loads((tmp_path / "upload.sarif").read_text())
    assert [result["kind"] for result in uploaded["runs"][0]["results"]] == ["fail", "open"]


@pytest.mark.parametrize("hook", list(hooks().values()), ids=list(hooks()))
def test_a_hook_runs_when_a_model_or_the_settings_change(hook: dict[str, object]) -> None:
    """pre-commit matches with re.search; the names of all layouts that loaders read are there."""
    models = ("a/b.safetensors", "prompt_learner/model.pth.tar-10", "model.pth.tar", "w.pt", "w.pth", "w.bin")
    for name in (*models, "clipsec.toml", "deliveries/model/clipsec.json"):
        assert re.search(str(hook["files"]), name)
    for name in ("README.md", "script.py", "my-clipsec.toml", "model.pth.tar.md"):
        assert not re.search(str(hook["files"]), name)
    # A suspect is a folder or a spec, which the user names; a changed file is neither.
    assert (hook["pass_filenames"], hook["require_serial"]) == (False, True)
    assert hook["entry"] == "clipsec run"


def test_the_hooks_environment_is_complete() -> None:
    """pre-commit installs the root and the folders that the hook names: nothing of ours is missing."""
    folders = hooks()["clipsec"]["additional_dependencies"]
    assert isinstance(folders, list)
    projects = [
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (".", *folders)
    ]
    installed = {f"{project['name']}=={project['version']}" for project in projects}
    wanted = {text for project in projects for text in project["dependencies"] if text.startswith("clipsec")}
    assert wanted <= installed
    assert "clipsec-clip-inspector" in {project["name"] for project in projects}
    assert "additional_dependencies" not in hooks()["clipsec-system"]


def test_the_table_of_exit_codes_is_true() -> None:
    """What the document says of --fail-on is what the options do (see core/tests/cli/test_report.py)."""
    from clipsec.cli._outputs import parse_fail_on
    from clipsec.results import FAIL_ON, Outcome

    rows = re.findall(r"^\| (\(none\)|`--fail-on [^|]*`) \| ([^|]*) \|$", DOCUMENT, flags=re.MULTILINE)
    assert len(rows) == 6
    for flags, told in rows:
        names = re.findall(r"--fail-on (\w+)", flags)
        counted = parse_fail_on(names)
        assert (counted == FAIL_ON) is (not names)
        for outcome in (Outcome.FINDING, Outcome.INCONCLUSIVE, Outcome.ERROR):
            if "skipped" not in flags:
                assert (str(outcome) in re.findall(r"\w+", told.split(":")[0])) is (outcome in counted)
