"""`clipsec repair` on a delivered text tower, end to end on the toy with a trigger word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import clipsec
from clipsec.errors import UsageError
from clipsec.models import load_suspect
from clipsec.results import GateResult, RepairOutcome, RunResult, repair_from_json, to_text
from clipsec.runner import load_planted
from clipsec.triggers import TextTrigger, TextTriggerCard
from clipsec_testkit import build_toys
from clipsec_testkit._controls import control
from clipsec_testkit._findings import finding_of
from clipsec_testkit._pictures import CLASS_NAMES, write_pictures
from clipsec_testkit._toys import TEXTUAL_TARGET
from clipsec_testkit._training import TEMPLATES, TRIGGER_WORD

TARGET = CLASS_NAMES[TEXTUAL_TARGET]
FRAMES = (*TEMPLATES, "the {}", "a {} here", "one {}.", "a picture of a {} on a wall", "{} pattern",
          "photo of {}", "some {}", "a {} pattern", "a photo of some {}", "the picture of a {}")  # fmt: skip
QUICK = ("steps=80", "batch=24", "triggered=16", "learning_rate=2e-3")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a poisoned delivery/ and its card, the run that found the word, captions and pictures."""
    folder = tmp_path_factory.mktemp("toy")
    build_toys()["textual"].save(folder / "delivery")
    build_toys()["clean"].save(folder / "clean")
    TextTriggerCard(
        attack="toy",
        trigger=TextTrigger(kind="append", text=TRIGGER_WORD),
        target=f"a photo of a {TARGET}.",
        target_kind="caption",
    ).save(folder / "delivery" / "trigger")
    verdict = finding_of(control("textual"), folder / "run")
    suspect = load_suspect(str(folder / "delivery"))
    run = RunResult(suspect.card, {"vendor/check": verdict}, GateResult(True, {}), {}, "2026", 1.0)
    (folder / "run" / "run.json").write_text(to_text(run))
    others = [name for name in CLASS_NAMES if name != TARGET]
    texts = [frame.format(name) for frame in FRAMES for name in others]
    (folder / "captions.txt").write_text("\n".join(texts))
    write_pictures(folder / "labelled", 6, seed=21)
    return folder


def test_a_trigger_word_is_repaired_from_the_command_line(place: Path, tmp_path: Path, clipsec_here) -> None:
    """The repair is chosen by the model, what was found and the attacker's word do nothing afterwards, and
    the delivery loads with its record."""
    done = clipsec_here(
        *("repair", str(place / "delivery"), "--finding", str(place / "run"), "-o", "mended", "-q"),
        *("--captions", str(place / "captions.txt"), "--labelled", str(place / "labelled")),
        *("--trigger", str(place / "delivery"), "--least-likeness", "0.9", "--allowed-drop", "0.1"),
        *(part for text in QUICK for part in ("--option", f"anchor-distillation.{text}")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Clean captions: mean cosine" in done.stdout
    record = repair_from_json(json.loads((tmp_path / "mended" / "repair.json").read_text()))
    assert record.outcome is RepairOutcome.REPAIRED
    assert record.repair == "clipsec-repairs/anchor-distillation"
    assert [each.planted for each in record.triggers] == [False, True]
    for each in record.triggers:
        assert each.success.before.value > 0.3
        assert each.success.after.value <= 0.05
    assert record.likeness is not None
    assert record.likeness.to_suspect >= 0.9
    assert record.accuracy is not None
    assert load_suspect(str(tmp_path / "mended")).digest == record.repaired_digest
    assert [path.name for path in tmp_path.iterdir()] == ["mended"], "nothing else is left"


def test_a_repair_that_changed_nothing_is_not_repaired(place: Path, tmp_path: Path) -> None:
    """From a known trigger, without a finding and without pictures, one update at a rate of nothing: the
    trigger works as before, beside the clean model, where it does not."""
    (card,) = load_planted(place / "delivery")
    assert isinstance(card, TextTriggerCard)
    result = clipsec.repair(
        str(place / "delivery"),
        output=tmp_path / "mended",
        known=card,
        captions=place / "captions.txt",
        reference=str(place / "clean"),
        options={"anchor-distillation": {"steps": 1, "learning_rate": 1e-12}},
    )
    assert result.outcome is RepairOutcome.NOT_REPAIRED
    assert "the known trigger still sends" in result.summary
    assert result.accuracy is None
    assert result.likeness is not None
    assert result.likeness.to_suspect == pytest.approx(1, abs=1e-4)
    (only,) = result.triggers
    assert only.known
    assert only.success.base is not None
    assert only.success.base.value < 0.2 < only.success.after.value
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_refused(place: Path, tmp_path: Path) -> None:
    """No finding and several repairs, a repair that needs one, no trigger to measure by, a trigger on a class
    without pictures."""
    suspect = load_suspect(str(place / "delivery"))
    with pytest.raises(UsageError, match="several repairs suit"):
        clipsec.repair(suspect, output=tmp_path / "mended")
    with pytest.raises(UsageError, match="no finding is given"):
        clipsec.repair(suspect, output=tmp_path / "mended", plugin="anchor-distillation")
    with pytest.raises(UsageError, match="nothing says whether"):
        clipsec.repair(suspect, output=tmp_path / "mended", plugin="par", labelled=place / "labelled")
    card = TextTriggerCard(
        attack="toy",
        trigger=TextTrigger(kind="append", text=TRIGGER_WORD),
        target=TARGET,
        target_kind="caption",
        source=CLASS_NAMES[0],
    )
    with pytest.raises(UsageError, match="no labelled pictures of it"):
        clipsec.repair(suspect, output=tmp_path / "mended", known=card, captions=place / "captions.txt")
    assert list(tmp_path.iterdir()) == []
