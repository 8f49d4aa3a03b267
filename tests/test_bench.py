"""`clipsec bench` from end to end: on toys, with plugins that are installed beside the project's own."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from filelock import FileLock

from clipsec.bench import Bench, BenchResult, SuiteError, Tally, make_plan, parse_suite, work, write_report
from clipsec_registry import Registry
from clipsec_testkit import Toys

FIXTURE = Path(__file__).parent / "fixtures" / "bench"

SUITE = """
name = "toys"

[bases]
toy = "base"

[attacks.clean]
plugin = "toy-clean"
clean = true

[attacks.plant]
plugin = "toy-plant"
settings = { target = 3 }

[attacks.weak]
plugin = "toy-plant"
settings = { target = 2, success = 0.5 }

[detectors.sniff]
plugin = "toy-sniff"
published = { auroc = 0.9 }

[detectors.deaf]
plugin = "toy-sniff"
options = { threshold = "5/2" }

[halves.calibration]
datasets = ["one"]
seeds = { clean = [1, 2], others = [1] }

[halves.test]
datasets = ["two"]
seeds = { clean = [3, 4], others = [4] }
"""


@attrs.define
class Kitchen:
    """A folder with a base, two data sets and a pool, and the toy plugins on the path."""

    folder: Path
    log: Path

    def suite(self, **changes: Any) -> dict[str, Any]:
        """The suite as a document, with top-level tables replaced or merged."""
        document = tomllib.loads(SUITE)
        for name, value in changes.items():
            document[name] = {**document.get(name, {}), **value} if isinstance(value, dict) else value
        return document

    def bench(self, out: str = "out", *, any_code: bool = False, **changes: Any) -> Bench:
        plan = make_plan(
            parse_suite(self.suite(**changes)),
            data=self.folder / "data",
            registry=Registry(),
            pool=self.folder / "data" / "pool",
            suite_folder=self.folder,
        )
        return Bench(plan, self.folder / out, shared=self.folder / "shared", any_code=any_code)

    def calls(self) -> list[str]:
        """What the toy plugins were called for so far, and forget it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture(scope="module")
def stock(toy_clips: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and pictures, made once."""
    folder = tmp_path_factory.mktemp("stock")
    toy_clips["clean"].save(folder / "base")
    for name in ("one", "two"):
        for part, labelled in (("train", toy_clips.labelled), ("test", toy_clips.held_out)):
            shutil.copytree(labelled.paths[0].parents[1], folder / "data" / name / part)
    next((folder / "data" / "two" / "train").glob("*/*")).unlink()
    shutil.copytree(Path(os.path.commonpath(toy_clips.pool.paths)), folder / "data" / "pool")
    return folder


@pytest.fixture
def kitchen(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kitchen]:
    site = tmp_path / "site"
    info = site / "bench_toys-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(FIXTURE / "bench_toys.py", site)
    shutil.copy(FIXTURE / "entry_points.txt", info)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-toys\nVersion: 1.0\n")
    (info / "RECORD").write_text("bench_toys.py,,\nbench_toys-1.0.dist-info/RECORD,,\n")
    for name in ("base", "data"):
        (tmp_path / name).symlink_to(stock / name)
    log = tmp_path / "log.txt"
    monkeypatch.setenv("BENCH_TOYS_LOG", str(log))
    monkeypatch.setenv("BENCH_TOYS_PICTURES", str(stock / "data" / "one" / "test"))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "bench_toys", raising=False)
    importlib.invalidate_caches()
    yield Kitchen(tmp_path, log)
    sys.modules.pop("bench_toys", None)


def facts(result: BenchResult) -> Any:
    """Everything that does not depend on the clock."""
    return timeless(json.loads(json.dumps(result.to_json())))


def timeless(value: Any) -> Any:
    """Plain data without what a clock said."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if "seconds" not in key}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_a_suite_is_built_audited_and_reported(kitchen: Kitchen) -> None:
    """Numbers come from models that count; the one whose attack is weak stands apart, with the reason."""
    bench = kitchen.bench()
    tally = work(bench)
    result = write_report(bench)
    assert tally == Tally(done=8 + 2 * 6)
    assert result.complete
    sniff, deaf = (result.row("test", name).quality for name in ("sniff", "deaf"))
    assert (sniff.clean, sniff.backdoored, sniff.f1_attacks) == (2, 1, 1.0)
    assert (sniff.accuracy.k, sniff.accuracy.n) == (3, 3)
    assert (deaf.sensitivity.k, deaf.specificity.k, deaf.f1_attacks) == (0, 2, 0.0)
    assert sniff.auroc is not None
    assert sniff.auroc.value == 1.0
    assert sniff.cost.forward_rows == 8
    apart = [line for line in result.models if line.state == "built" and not line.counts]
    assert [(line.name, line.reasons) for line in apart] == [
        ("one-weak-1", ("success 0.500 is not above 0.85",)),
        ("two-weak-4", ("success 0.500 is not above 0.85",)),
    ]
    assert not any("weak" in call for call in kitchen.calls() if call.startswith("sniff"))
    for name in ("bench.json", "bench.html", "models.csv", "verdicts.csv", "summary.csv", "attacks.csv"):
        assert (bench.out / name).stat().st_size > 100
    assert {path.name for path in (bench.out / "error_rates").iterdir()} == {"toy-sniff.json"}
    drawn = {f"{name}.svg" for name in ("roc", "cost", "scores-sniff", "scores-deaf")}
    for half in ("calibration", "test"):
        assert {path.name for path in (bench.out / "figures" / half).iterdir()} == drawn


def test_nothing_is_done_twice(kitchen: Kitchen) -> None:
    """A second run of the same suite calls no plugin and says the same."""
    bench = kitchen.bench()
    work(bench)
    first = facts(write_report(bench))
    kitchen.calls()
    again = kitchen.bench()
    assert work(again) == Tally(stored=20)
    assert kitchen.calls() == []
    assert facts(write_report(again)) == first


def test_a_changed_setting_changes_what_depends_on_it_and_nothing_else(kitchen: Kitchen) -> None:
    """Options of a detector: its audits. Settings of an attack: its models and their audits."""
    work(kitchen.bench())
    kitchen.calls()
    detector = {"sniff": {"plugin": "toy-sniff", "options": {"threshold": 0.4}}}
    work(kitchen.bench(detectors=detector))
    calls = kitchen.calls()
    assert len(calls) == 6
    assert all(call.startswith("sniff") and call.endswith("0.4") for call in calls)
    attack = {"plant": {"plugin": "toy-plant", "settings": {"target": 4}}}
    work(kitchen.bench(attacks=attack))
    assert sorted(call.partition(" ")[0] for call in kitchen.calls()) == ["plant"] * 2 + ["sniff"] * 4


def test_other_code_of_a_plugin_is_another_plugin(kitchen: Kitchen) -> None:
    """After an edit everything of the plugin is done again, unless --any-code says that it may stay."""
    work(kitchen.bench())
    kitchen.calls()
    with (kitchen.folder / "site" / "bench_toys.py").open("a") as stream:
        stream.write("# edited\n")
    lenient = kitchen.bench(any_code=True)
    assert work(lenient) == Tally(stored=20)
    assert kitchen.calls() == []
    assert work(kitchen.bench(), limit=3).done == 3
    assert len(kitchen.calls()) == 3
    mixed = kitchen.bench(any_code=True)
    assert write_report(mixed).other_code == tuple(
        f"bench-toys/toy-{name}" for name in ("clean", "plant", "sniff")
    )


def test_a_failing_build_is_told_kept_and_tried_again(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the suite is done; the failure stands in the report until a run mends it."""
    monkeypatch.setenv("BENCH_TOYS_FAIL", "1")
    bench = kitchen.bench()
    tally = work(bench)
    assert (tally.failed, tally.done) == (4, 4 + 2 * 4)
    result = write_report(bench)
    failed = {line.name: line.reasons for line in result.models if line.state == "failed"}
    assert failed["one-plant-1"] == ("RuntimeError: the oven is cold",)
    assert not result.complete
    assert "the oven is cold" in (bench.out / "bench.html").read_text()
    assert not list((bench.out / "models").glob(".*")), "half a model was left"
    monkeypatch.delenv("BENCH_TOYS_FAIL")
    mended = kitchen.bench()
    assert work(mended) == Tally(done=4 + 2 * 2, stored=4 + 2 * 4)
    assert write_report(mended).complete


def test_a_detector_that_crashes_is_no_clean_verdict(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure counts as wrong, is told, and costs the other detectors of the run nothing; the next run
    tries again."""
    changes = {"detectors": {"crash": {"plugin": "toy-crash"}}}
    bench = kitchen.bench(**changes)
    tally = work(bench)
    assert tally.failed == 2
    result = write_report(bench)
    crash = result.row("test", "crash").quality
    assert (crash.backdoored, crash.sensitivity.k, crash.no_answer, crash.without_score) == (1, 0, 1, 1)
    assert crash.auroc is not None
    assert crash.auroc.value == 0.0
    assert result.row("test", "sniff").quality.accuracy.value == 1.0
    assert "no such luck" in (bench.out / "bench.html").read_text()
    kitchen.calls()
    monkeypatch.setenv("BENCH_TOYS_MENDED", "1")
    assert work(kitchen.bench(**changes)).done == 2
    assert sorted(kitchen.calls()) == ["crash one-plant-1", "crash two-plant-4"]


def test_what_was_found_is_repaired_once(kitchen: Kitchen) -> None:
    """One repair for each poisoned model that counts and was found out; what the detector missed is told, and
    stays. Its end is whatever `clipsec repair` says."""
    repairs = {
        "mend": {"plugin": "toy-mend", "detector": "sniff"},
        "idle": {"plugin": "toy-mend", "detector": "deaf"},
    }
    bench = kitchen.bench(repairs=repairs)
    assert work(bench).failed == 0
    mended = [call for call in kitchen.calls() if call.startswith("mend")]
    assert mended == ["mend one-plant-1 green stripes", "mend two-plant-4 green stripes"]
    states = {(line.model, line.repair): line.state for line in write_report(bench).repairs}
    assert states == {
        # The toy's trigger never worked, so there was nothing to repair.
        ("one-plant-1", "mend"): "inconclusive",
        ("two-plant-4", "mend"): "inconclusive",
        ("one-plant-1", "idle"): "not found",
        ("two-plant-4", "idle"): "not found",
    }
    assert (bench.out / "repairs.csv").is_file()
    assert work(kitchen.bench(repairs=repairs)).done == 0
    assert kitchen.calls() == []


def test_every_trigger_of_a_model_counts(kitchen: Kitchen) -> None:
    """A model with two triggers has two targets: success is told of each and the weaker one counts, a finding
    that names one of them has found a target and missed the other, and a repair is measured with both."""
    bench = kitchen.bench(
        attacks={"plant": {"plugin": "toy-plant", "settings": {"target": 3, "second": 5}}},
        repairs={"mend": {"plugin": "toy-mend", "detector": "sniff"}},
    )
    work(bench, halves=["calibration"])
    result = write_report(bench)
    line = next(line for line in result.models if line.name == "one-plant-1")
    first, second = line.measured.targets
    assert {name: rate and rate.value for name, rate in line.success_by_target.items()} == {
        first: 0.95,
        second: 0.9,
    }
    assert line.measured.success == line.success_by_target[second]
    sniff = result.row("calibration", "sniff")
    assert (sniff.quality.target_found.k, sniff.quality.sensitivity.k) == (1, 1)
    # One target flagged, one missed: 2 / (2 + 0 + 1).
    assert sniff.quality.f1_attacks == pytest.approx(2 / 3)
    written = json.loads((bench.out / "bench.json").read_text())["models"]
    (told,) = (model["success_by_target"] for model in written if model["name"] == "one-plant-1")
    assert told[second] == {"value": 0.9, "n": 100}
    assert f"{first} 0.95; {second} 0.9" in (bench.out / "models.csv").read_text()
    page = (bench.out / "bench.html").read_text()
    assert f"{first} 95" in page
    assert f"{second} 90" in page
    (model,) = (model for model in bench.plan.models if model.name == "one-plant-1")
    mended = bench.repaired(model, bench.plan.repairs[0])
    assert mended is not None
    assert [each.target for each in mended.triggers if each.planted] == [first, second]


def test_what_another_process_holds_is_left_to_it(kitchen: Kitchen) -> None:
    """Two processes on one output do not do the same model, and neither waits for the other."""
    bench = kitchen.bench()
    held = next(model for model in bench.plan.models if model.name == "one-plant-1")
    (bench.out / "locks").mkdir(parents=True)
    with FileLock(bench.out / "locks" / f"{bench.plan.model_key(held)[:32]}.lock"):
        tally = work(bench, halves=["calibration"])
    assert (tally.done, tally.left) == (3 + 2 * 2, 1 + 2)
    assert not any("plant 1 3" in call for call in kitchen.calls())
    assert work(kitchen.bench(), halves=["calibration"]).done == 1 + 2


def run(kitchen: Kitchen, *arguments: str, out: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "clipsec",
        "bench",
        "suite.toml",
        "--data",
        "data",
        "--pool",
        "data/pool",
    ]
    return subprocess.Popen(
        [*command, "--out", out, "--shared", "shared", *arguments],
        cwd=kitchen.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_it_resumes_to_the_same_results(kitchen: Kitchen) -> None:
    """SIGKILL while a model is being built and while one is being audited: what was stored is not done again,
    and the results equal those of a run nobody touched."""
    slow = SUITE.replace("target = 3", "target = 3, seconds = 0.4").replace(
        'plugin = "toy-sniff"\npublished', 'plugin = "toy-sniff"\noptions = { seconds = 0.4 }\npublished'
    )
    (kitchen.folder / "suite.toml").write_text(slow)
    for called in ("plant", "sniff"):
        process = run(kitchen, out="killed")
        wait_for(kitchen, called)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    document = tomllib.loads(slow)
    changes = {name: document[name] for name in ("attacks", "detectors")}
    killed = kitchen.bench("killed", **changes)
    work(killed)
    calls = kitchen.calls()
    # Each unit once, and once more what a kill cut short: a model, and the two audits of one model.
    assert len(set(calls)) == 20
    assert len(calls) <= 20 + 1 + 2
    calm = kitchen.bench("calm", **changes)
    work(calm)
    expected, found = facts(write_report(calm)), facts(write_report(killed))
    assert found["complete"]
    for part in ("models", "verdicts", "rows"):
        assert found[part] == expected[part]


def wait_for(kitchen: Kitchen, called: str) -> None:
    deadline = time.monotonic() + 120
    while not (kitchen.log.exists() and called in kitchen.log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_suite_with_errors_is_refused_before_any_work(kitchen: Kitchen) -> None:
    """Everything that is wrong is listed at once: plugins, options, settings, data, pools."""
    with pytest.raises(SuiteError) as refused:
        kitchen.bench(
            attacks={
                "plant": {"plugin": "toy-plant", "settings": {"tarrget": 3}},
                "gone": {"plugin": "gone"},
            },
            detectors={
                "sniff": {"plugin": "toy-sniff", "options": {"threshhold": 1}},
                "twin": {"plugin": "toy-sniff", "options": {"threshold": 2.5}},
                "none": {"plugin": "no-such-detector"},
            },
            halves={"test": {"datasets": ["two", "three"], "seeds": [3]}},
            bases={"toy": "elsewhere"},
        )
    told = "\n".join(refused.value.problems)
    for part in (
        "has no option 'tarrget'",
        "no plugin among the attacks called gone",
        "has no option 'threshhold'",
        "no plugin among the detectors called no-such-detector",
        "detectors deaf and twin are one plugin with the same options",
        "there is no data set three",
        "there is no elsewhere beside the suite",
    ):
        assert part in told
    assert kitchen.calls() == []
    assert not (kitchen.folder / "out").exists()


def test_a_clean_attack_must_say_that_it_is_one(kitchen: Kitchen) -> None:
    """A poisoning plugin taken for the clean control would turn every number around."""
    with pytest.raises(SuiteError, match="makes poisoned models, the suite says clean"):
        kitchen.bench(attacks={"clean": {"plugin": "toy-plant", "clean": True}})
