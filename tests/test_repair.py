"""`clipsec repair`, end to end on a toy with a backdoor in its prompts, and what may go wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

import clipsec
from clipsec.errors import ContractError, DataError, StoreError, UsageError
from clipsec.models import load_suspect
from clipsec.results import GateResult, Outcome, RepairOutcome, RunResult, Verdict, repair_from_json, to_text
from clipsec_registry import Registry
from clipsec_testkit import Toys, build_toys
from clipsec_testkit._controls import control
from clipsec_testkit._findings import finding_of
from clipsec_testkit._pictures import write_pictures

PLUGINS = '''
import attrs
import torch
from clipsec.models import save_prompts

@attrs.frozen
class Options:
    pass

class Base:
    summary, api_version, needs, options, references = "for a test", "1.0", frozenset(), Options, ()

    def deliver(self, context, prompts):
        return save_prompts(context.output, prompts, base=context.suspect.base_spec, epoch=1,
                            clip=context.suspect.base)

class DoesNothing(Base):
    def repair(self, context):
        return self.deliver(context, context.suspect.prompts)

class Forgets(Base):
    """Takes all prompts to zero: the trigger is gone, and so is what the model knew."""
    def repair(self, context):
        prompts = context.suspect.prompts
        meta = {name: torch.zeros_like(value) for name, value in prompts.meta_net.items()}
        ctx = torch.zeros_like(prompts.ctx)
        return self.deliver(context, attrs.evolve(prompts, ctx=ctx, meta_net=meta))

class Crashes(Base):
    def repair(self, context):
        self.deliver(context, context.suspect.prompts)
        raise RuntimeError("half way")

class IsStopped(Base):
    def repair(self, context):
        self.deliver(context, context.suspect.prompts)
        raise KeyboardInterrupt

class WritesNothing(Base):
    def repair(self, context):
        return context.output
'''


@pytest.fixture(scope="module")
def toys() -> Toys:
    return build_toys()


@pytest.fixture(scope="module")
def place(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with delivery/ and its base/, the run that found its backdoor, pictures and the card."""
    folder = tmp_path_factory.mktemp("toy")
    toys["prompt"].save(folder / "delivery")
    suspect = load_suspect(str(folder / "delivery"))
    verdict = finding_of(control("prompt"), folder / "run")
    run = RunResult(suspect.card, {"vendor/check": verdict}, GateResult(True, {}), {}, "2026", 1.0)
    (folder / "run" / "run.json").write_text(to_text(run))
    write_pictures(folder / "labelled", 20, seed=21)
    write_pictures(folder / "held-out", 12, seed=22)
    assert toys["prompt"].trigger is not None
    toys["prompt"].trigger.save(folder / "card")
    (folder / "plugins.py").write_text(PLUGINS)
    return folder


def mend(place: Path, output: Path, name: str = "prompt-finetune", **more: object) -> clipsec.RepairResult:
    registry = Registry(local=[place / "plugins.py"])
    settings = {"finding": place / "run", "labelled": place / "labelled", "held_out": place / "held-out"}
    return clipsec.repair(
        str(place / "delivery"), output=output, plugin=name, registry=registry, **{**settings, **more}
    )


def test_a_planted_backdoor_is_repaired_from_the_command_line(
    place: Path, tmp_path: Path, clipsec_here
) -> None:
    """Neither the found trigger nor the attacker's does anything; the folder loads, with its record."""
    done = clipsec_here(
        *("repair", str(place / "delivery"), "--finding", str(place / "run"), "-o", "mended", "-q"),
        *("--labelled", str(place / "labelled"), "--held-out", str(place / "held-out")),
        *("--trigger", str(place / "card"), "--allowed-drop", "0.05"),
        *("--option", "prompt-finetune.rounds=1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Repaired" in done.stdout
    record = repair_from_json(json.loads((tmp_path / "mended" / "repair.json").read_text()))
    assert record.outcome is RepairOutcome.REPAIRED
    assert [each.planted for each in record.triggers] == [False, True]
    for each in record.triggers:
        assert each.success.before.value > 0.5
        assert each.success.after.value <= 0.05
    repaired = load_suspect(str(tmp_path / "mended"))
    assert repaired.digest == record.repaired_digest != record.suspect.digest
    assert repaired.class_names == record.suspect.class_names
    assert [path.name for path in tmp_path.iterdir()] == ["mended"], "nothing else is left"


@pytest.mark.parametrize("name", ["local/does-nothing", "local/forgets"])
def test_a_repair_that_did_not_work_leaves_nothing_and_says_so(
    name: str, place: Path, tmp_path: Path
) -> None:
    """A model as before, and one that lost what it knew: not repaired, exit code 2, no folder."""
    result = mend(place, tmp_path / "mended", name)
    assert result.outcome is RepairOutcome.NOT_REPAIRED
    assert result.exit_code == 2
    assert result.folder == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "error"),
    [("crashes", ContractError), ("is-stopped", KeyboardInterrupt), ("writes-nothing", ContractError)],
)
def test_a_plugin_that_fails_leaves_nothing(
    name: str, error: type[BaseException], place: Path, tmp_path: Path
) -> None:
    """Whatever it had written by then."""
    with pytest.raises(error):
        mend(place, tmp_path / "mended", f"local/{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_leaves_nothing(
    after: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first, the second or the last file of the delivery."""
    write, written = os.write, []

    def full(descriptor: int, data: memoryview) -> int:
        written.append(descriptor)
        if len(written) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        mend(place, tmp_path / "mended", "local/forgets", goal=0.5, allowed_drop=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_finding_about_another_model_is_refused(place: Path, toys: Toys, tmp_path: Path) -> None:
    """Digests decide, not names."""
    other = load_suspect(str(toys["clean-prompt"].save(tmp_path / "other" / "delivery")))
    with pytest.raises(UsageError, match="the finding is about"):
        clipsec.repair(other, finding=place / "run", labelled=place / "labelled", output=tmp_path / "mended")
    assert not (tmp_path / "mended").exists()


def test_what_cannot_be_repaired_is_refused(place: Path, tmp_path: Path) -> None:
    """A clean run, an output that exists, pictures of other classes, labels that are not true."""
    suspect = load_suspect(str(place / "delivery"))
    verdict = Verdict(Outcome.CLEAN, "nothing found")
    clean = RunResult(suspect.card, {"vendor/check": verdict}, GateResult(True, {}), {}, "2026", 1.0)
    with pytest.raises(UsageError, match="no finding to start from"):
        mend(place, tmp_path / "mended", finding=clean)
    with pytest.raises(UsageError, match="exists already"):
        mend(place, place / "labelled")
    for number, folder in enumerate(sorted((place / "labelled").iterdir())):
        shutil.copytree(folder, tmp_path / "pictures" / f"thing {number}")
    with pytest.raises(DataError, match="of 0 of the model's classes"):
        mend(place, tmp_path / "mended", labelled=tmp_path / "pictures")
    names = [folder.name for folder in sorted((place / "held-out").iterdir())]
    for name, other in zip(names, names[1:] + names[:1]):
        shutil.copytree(place / "held-out" / other, tmp_path / "false" / name)
    with pytest.raises(DataError, match="names the class of only"):
        mend(place, tmp_path / "mended", held_out=tmp_path / "false")


def test_a_trigger_that_was_changed_since_the_run_is_refused(place: Path, tmp_path: Path) -> None:
    """The artifact's digest is part of the finding."""
    moved = tmp_path / "run"
    (moved / "triggers").mkdir(parents=True)
    (moved / "run.json").write_bytes((place / "run" / "run.json").read_bytes())
    for file in (place / "run" / "triggers").iterdir():
        (moved / "triggers" / file.name).write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(StoreError, match="changed after the run"):
        mend(place, tmp_path / "mended", finding=moved)
