"""`clipsec expose` as a user types it, on toys that lie in folders; and the page's own example."""

from __future__ import annotations

import json
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clipsec.cli import main
from clipsec.results import GateResult, RunResult, exposure_from_json, to_text
from clipsec.runner import audit
from clipsec_registry import Registry
from clipsec_testkit import InterfaceConformance, build_toys
from clipsec_testkit._controls import control
from clipsec_testkit._findings import finding_of
from clipsec_testkit._pictures import write_pictures

PAGE = Path(__file__).parents[3] / "docs" / "dife.md"
FEW = ("--interface", "zero-shot", "--interface", "delivered", "--interface", "prompt-conditioned")


def example(folder: Path) -> Path:
    """The page's interface as a file."""
    (source,) = re.findall(r"```python\n# near_duplicates\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = folder / "near_duplicates.py"
    path.write_text(source)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deliveries, cards and pictures as a user has them."""
    folder, toys = tmp_path_factory.mktemp("expose"), build_toys()
    for name in ("clean", "clean-tuned", "visual"):
        toys[name].save(folder / name)
    toys["visual"].trigger.save(folder / "card")
    toys["prompt"].save(folder / "prompted" / "prompt")
    write_pictures(folder / "pictures", 24, seed=7)
    example(folder)
    return folder


def expose(place: Path, suspect: str, *more: str) -> Result:
    pictures = () if "--labelled" in more else ("--labelled", str(place / "pictures"))
    command = ["expose", str(place / suspect), *pictures, "-q", *more]
    return CliRunner().invoke(main, [*command, "-o", str(place / "out" / suspect)])


def against_clean(place: Path, suspect: str, *more: str) -> Result:
    more = ("--trigger", str(place / "card"), "--reference", str(place / "clean"), *more)
    return expose(place, suspect, *more)


def test_a_backdoored_model_is_a_finding(place: Path) -> None:
    """Exit code 1; class names come from the pictures' folders; the record says the same as the exit code."""
    result = against_clean(place, "visual", *FEW, "--format", "json")
    assert result.exit_code == 1, result.output
    found = exposure_from_json(json.loads(result.stdout))
    assert found.exit_code == 1
    states = {cell.interface.rpartition("/")[2]: str(cell.state) for cell in found.cells}
    assert states["zero-shot"] == "measured"
    assert states["prompt-conditioned"] == states["delivered"] == "N.E."
    assert states["knn"] == "not run"
    assert (Path(found.folder) / "exposure.html").is_file()


def test_a_clean_model_is_none(place: Path) -> None:
    """The same trigger on a model that was tuned without it: equivalent, and the console says for what."""
    result = against_clean(place, "clean-tuned", "--interface", "zero-shot")
    assert result.exit_code == 0, result.output
    assert "Not exposed to this trigger" in result.output
    assert "equivalent" in result.output


def test_nothing_that_could_be_compared_is_not_clean(place: Path) -> None:
    """Exit code 3, and no word of safety."""
    result = against_clean(place, "visual", "--interface", "text-to-text")
    assert result.exit_code == 3, result.output
    assert "Nothing could be compared" in result.output


@pytest.mark.parametrize(
    "wrong",
    [
        ("--reference", "clean"),
        ("--trigger", "card", "--finding", "runs"),
        ("--trigger", "card", "--reference", "visual"),
        ("--trigger", "card", "--interface", "no-such"),
        ("--trigger", "card", "--reference", "clean", "--option", "knn.no_such=1"),
    ],
)
def test_usage(place: Path, wrong: tuple[str, ...]) -> None:
    """No trigger, two sources of triggers, a reference that is the suspect, unknown names: exit code 4 with a
    remedy."""
    paths = {"card", "clean", "visual"}
    result = expose(place, "visual", *(str(place / part) if part in paths else part for part in wrong))
    assert result.exit_code == 4, result.output
    assert "What to do:" in result.output


def test_recovered_triggers_are_called_so(place: Path) -> None:
    """From a run's finding: the delivery is compared with its own base, and both are said."""
    at, folder = control("prompt"), place / "run"
    verdict = finding_of(at, folder)
    suspect = main_suspect(place)
    run = RunResult(
        suspect=suspect.card,
        verdicts={"clipsec-testkit/toy": verdict},
        gate=GateResult(True, {}),
        environment={},
        started="2026-01-01T00:00:00+00:00",
        seconds=0.0,
        folder=str(folder),
    )
    (folder / "run.json").write_text(to_text(run))
    result = expose(place, "prompted/prompt", "--finding", str(folder), *FEW)
    assert result.exit_code in (1, 2), result.output
    words = " ".join(result.output.split())
    assert "were recovered by a detector" in words
    assert "own base answering zero-shot" in words
    assert "component repair" in words


def test_words_that_a_scan_recovered_are_measured(place: Path) -> None:
    """What `token-scan` says of a text tower goes into captions, and a class stands for its target."""
    toys, folder = build_toys(), place / "words"
    toys["textual"].save(folder / "textual")
    found = audit(
        str(folder / "textual"),
        detectors=["token-scan"],
        options={"token-scan": {"tokens": 100, "pool": 8, "beam": 4, "finalists": 2, "threshold": 0.3}},
        reference=toys["clean"].fresh(),
        labelled=toys.labelled,
        runs=folder / "runs",
    )
    more = ("--interface", "nearest-prompt", "--reference", str(place / "clean"), "--format", "json")
    result = expose(
        folder, "textual", "--labelled", str(place / "pictures"), "--finding", found.folder, *more
    )
    assert result.exit_code in (1, 2), result.output
    (trigger,) = exposure_from_json(json.loads(result.stdout)).triggers
    assert trigger.recovered
    assert trigger.enters == "texts"
    assert trigger.target in toys.labelled.class_names


def main_suspect(place: Path):
    from clipsec.models import load_suspect

    return load_suspect(place / "prompted" / "prompt")


def test_the_page_s_example_is_one_file_that_works(place: Path) -> None:
    """An unpackaged interface beside the installed ones, exposed by the visual toy."""
    file = place / "near_duplicates.py"
    result = against_clean(
        place,
        "visual",
        "--plugin-path",
        str(file),
        "--interface",
        "local/near-duplicates",
        "--interface",
        "zero-shot",
        "--format",
        "json",
    )
    assert result.exit_code == 1, result.output
    found = exposure_from_json(json.loads(result.stdout))
    (cell,) = (cell for cell in found.cells if cell.interface == "local/near-duplicates")
    assert str(cell.state) == "measured"
    assert cell.version.startswith("sha256:")
    assert found.cost.computed_rows <= found.cost.unique_rows


@cache
def _example_class() -> type:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry("interfaces", local=[example(Path(folder))])
        return registry.load(registry.find("interfaces", "local/near-duplicates"), strict=True)


class TestNearDuplicates(InterfaceConformance):
    """The page's example passes the battery too."""

    make = staticmethod(lambda: _example_class()())
