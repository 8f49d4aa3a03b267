"""Plugins written for API 1.0 go on working: nothing they use is removed, renamed or made required."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import attrs
import pytest

from clipsec import errors, models, protocols, results, scheduler, store
from clipsec_registry import OLDEST_API_VERSION

WHEELS = Path(__file__).parent / "fixtures" / "wheels"
WHEEL = WHEELS / "vintage_checks-1.0.0-py3-none-any.whl"

FIELDS = {
    protocols.Context: "suspect options scheduler units shared folder pool? labelled? reference? seed? "
    "search_dtype? decision_dtype? progress?",
    protocols.AttackContext: "base options labelled output held_out? pool? seed? progress?",
    models.LoadRequest: "base? class_names? device? max_bytes? loaders? registry?",
    results.Verdict: "outcome summary score? score_name? threshold? threshold_source? target? target_index? "
    "interval? n? evidence? measures? artifacts? notes? cost? provenance? error?",
    results.ClassEvidence: "index name flagged measures n success_interval? artifacts?",
    results.Interval: "low high level? method?",
    results.Artifact: "path kind sha256 description?",
    results.ErrorRecord: "type message remedy? traceback?",
    scheduler.Encode: "tower rows aux? row_keys? micro_batch? cache?",
    scheduler.Backward: "loss",
    scheduler.Gather: "problems max_live? on_done?",
    scheduler.Done: "tag value? error?",
    store.Unit: "name data tensors",
}
"""The fields of API 1.0 in their order; `?` marks those with a default. Frozen: never edit a line."""

NAMES = {
    protocols.Need: "IMAGE_TOWER TEXT_TOWER PROMPT_HEAD CLASS_NAMES CLEAN_REFERENCE IMAGE_POOL LABELS",
    results.Outcome: "CLEAN FINDING INCONCLUSIVE ERROR SKIPPED",
    protocols.Context: "generator save_artifact",
    protocols.AttackContext: "generator",
    protocols.Detector: "detect",
    protocols.Attack: "poison",
    protocols.Interface: "measure",
    protocols.Repair: "repair",
    protocols.ModelLoader: "matches load",
    protocols.ReportFormat: "render",
    models.Suspect: "digest provides image_tower head zero_shot_head",
    scheduler.Scheduler: "encode as_completed run counts",
    store.UnitStore: "save load names clear",
    errors: "ClipsecError UsageError ModelError DataError DetectionError NotApplicableError OutOfMemoryError "
    "ContractError StoreError",
}
"""Members of API 1.0 that plugins call, implement or compare with."""


@pytest.mark.skipif(OLDEST_API_VERSION != "1.0", reason="API 1.0 is no longer on offer")
@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: cls.__name__)
def test_classes_only_gain_fields(cls: type) -> None:
    """The fields of 1.0 stand first, in order, as optional as they were; each added one has a default."""
    frozen = FIELDS[cls].split()
    fields = attrs.fields(cls)
    now = [field.name + "?" * (field.default is not attrs.NOTHING) for field in fields if field.init]
    for before, after in zip(frozen, now):
        assert after in (before, f"{before}?")
    assert len(now) >= len(frozen)
    assert all(name.endswith("?") for name in now[len(frozen) :])


@pytest.mark.parametrize("home", NAMES, ids=lambda home: home.__name__)
def test_members_stay(home: object) -> None:
    """What a plugin calls or is called by still has its name."""
    assert [name for name in NAMES[home].split() if not hasattr(home, name)] == []


def test_the_source_beside_the_wheel_is_its_own() -> None:
    """Nobody edits the source and believes to have changed what is tested."""
    with zipfile.ZipFile(WHEEL) as wheel:
        frozen = wheel.read("vintage_checks/__init__.py")
    assert frozen == (WHEELS / "first_api" / "vintage_checks" / "__init__.py").read_bytes()


def test_a_wheel_of_the_first_api_runs(
    clipsec_here, tmp_path: Path, pool_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed as it was built then, it is listed and comes to a verdict in `clipsec run`."""
    site, pool = tmp_path / "site", tmp_path / "pool"
    pip = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([sys.executable, *pip, "--target", str(site), str(WHEEL)], check=True, timeout=60)
    monkeypatch.syspath_prepend(str(site))
    pool.mkdir()
    for picture in sorted(pool_folder.glob("*.jpg"))[:8]:
        (pool / picture.name).symlink_to(picture)
    command = ("run", "zoo:demo-clean", "--detector", "vintage", "--pool", "pool", "--format", "json")
    done = clipsec_here(*command)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    verdict = json.loads(done.stdout)["verdicts"]["vintage-checks/vintage"]
    assert (verdict["outcome"], verdict["summary"]) == ("clean", "the first API works")
    assert (verdict["n"], len(verdict["evidence"]), len(verdict["artifacts"])) == (8, 2, 1)
