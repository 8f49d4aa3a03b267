"""A vendor's closed check, from its source at the vendor's to its expiry at the customer's.

`fixtures/vendor_check` builds into a wheel that holds one extension module and no Python.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import clipsec

SOURCE = Path(__file__).parent / "fixtures" / "vendor_check"
OTHER = Path(__file__).parent / "fixtures" / "plugins" / "good"
SECRET = "only the vendor knows"
BUILD = "from {backend} import build_wheel; build_wheel({folder!r})"

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def compiler() -> None:
    """Where it is required, as in CI, a missing compiler is a failure and not a skip."""
    command = (sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if shutil.which(command) is None or not header.exists():
        missing = f"{command} or {header} is missing: the vendor's check cannot be compiled"
        if os.environ.get("CLIPSEC_REQUIRE_COMPILER"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def python(environment: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Run this interpreter in the customer's folder, with the customer's site folder first on its path."""
    (tmp_path / "site").mkdir()
    clean = {key: value for key, value in environment.items() if key != "CLIPSEC_LOCK"}

    def run(*arguments: str | Path, cwd: Path = tmp_path, **more: str) -> Done:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**clean, "PYTHONPATH": str(tmp_path / "site"), **more},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


def build(python: Callable[..., Done], source: Path, backend: str, folder: Path) -> Path:
    """A wheel, built from a copy of the source: setuptools leaves its intermediate files there."""
    copy = folder / f"{source.name}-source"
    shutil.copytree(source, copy)
    before = set(folder.glob("*.whl"))
    script = BUILD.format(backend=backend, folder=str(folder))
    done = python("-c", script, cwd=copy, ACME_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def licence(python: Callable[..., Done], days: int, since: int = -90) -> str:
    """As the vendor issues it: good from `since` to `days` days after today."""
    today = datetime.datetime.now(datetime.UTC).date()
    dates = (str(today + datetime.timedelta(days=each)) for each in (since, days))
    done = python(SOURCE / "issue_licence.py", "Example Ltd", *dates, ACME_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reference(pool_folder: Path, pictures: int) -> float:
    """The closed check's score, by singular value decomposition instead of its own power iteration."""
    suspect = clipsec.load_suspect("zoo:demo-clean")
    spec = suspect.base.visual.spec
    pixels = clipsec.ImagePool.from_folder(pool_folder).pixels(spec)[:pictures].float() / 255
    tower = suspect.image_tower()
    with torch.no_grad():
        features = torch.cat([tower.fn(rows) for rows in pixels.split(16)]).double()
    centred = features - features.mean(0)
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return float(along.square().max() / along.square().mean())


def check_licences(python: Callable[..., Done], folder: Path, good: str) -> None:
    """Every licence but a good one is refused, before anything of the context is looked at."""
    today = datetime.datetime.now(datetime.UTC).date()
    texts = {
        "absent": None,
        "good": good,
        "edited": good.replace(str(today.year), str(today.year + 1)),
        "early": licence(python, days=400, since=10),
        "rubbish": "licensee: nobody\n",
    }
    for name, text in texts.items():
        if text is not None:
            (folder / f"{name}.licence").write_text(text)
    script = f"""
import acme_closed, types
for name in {list(texts)!r}:
    options = acme_closed.AcmeClosed.options(licence=name + ".licence")
    try:
        acme_closed.AcmeClosed().detect(types.SimpleNamespace(options=options))
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = python("-c", script)
    assert done.stdout.splitlines() == [
        "PermissionError Acme's licence cannot be opened: absent.licence",
        "AttributeError 'types.SimpleNamespace' object has no attribute 'suspect'",
        "PermissionError Acme's licence was altered: edited.licence",
        "PermissionError the clock of this machine is before the day Acme's licence was issued, "
        f"{today + datetime.timedelta(days=10)}",
        "PermissionError this is not a licence of Acme's: rubbish.licence",
    ], done.stderr


@pytest.mark.slow
def test_a_closed_check_from_build_to_expiry(
    compiler: None, python: Callable[..., Done], tmp_path: Path, pool_folder: Path
) -> None:
    """Built, signed, installed, listed, trusted by its key, run beside another detector, altered, expired."""

    def command(*arguments: str, code: int = 0) -> Done:
        done = python("-m", "clipsec", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    vendor = tmp_path / "vendor"
    vendor.mkdir()
    wheel = build(python, SOURCE, "setuptools.build_meta", vendor)
    other = build(python, OTHER, "hatchling.build", vendor)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = archive.read("acme_closed.abi3.so")
    assert [name for name in names if ".dist-info/" not in name] == ["acme_closed.abi3.so"]
    assert b"expired on" in code
    command("plugin", "keygen", "vendor/acme")
    command("plugin", "sign", str(wheel), "--key", "vendor/acme.key")

    options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", "site"]
    done = python("-m", "pip", "install", *options, wheel, other)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in command("list").stdout.splitlines() if "acme-closed" in line]
    assert row.split()[1:6] == ["acme-closed", "2.1.0", "acme-closed", "LicenseRef-Acme-EULA", "ok"]

    trusted = command("plugin", "trust", "acme-closed", "--key", "vendor/acme.pub").stdout
    assert "trusted acme-closed 2.1.0 (6 files, by ed25519:" in trusted
    command("plugin", "trust", "clipsec", "clipsec-zoo", "vendor-good")

    def run(code: int, *more: str) -> dict:
        arguments = ["--detector", "acme-closed", "--detector", "steady", "--pool", str(pool_folder)]
        # Absolute: an isolated detector has a working folder of its own.
        chosen = ["-o", f"acme-closed.licence={tmp_path / 'acme.licence'}", "-o", "acme-closed.pictures=48"]
        output = ["--format", "json", "--fresh"]
        done = command("run", "zoo:demo-clean", *arguments, *chosen, *output, *more, code=code)
        verdicts = json.loads(done.stdout)["verdicts"]
        assert verdicts["vendor-good/steady"]["outcome"] == "clean"
        return verdicts["acme-closed/acme-closed"]

    good = licence(python, days=30)
    check_licences(python, tmp_path, good)
    (tmp_path / "acme.licence").write_text(good)
    verdict = run(0, "--isolate", "acme-closed")
    assert verdict["outcome"] == "clean"
    assert verdict["score"] == pytest.approx(reference(pool_folder, 48), rel=1e-3)
    assert verdict["n"] == 48
    assert verdict["cost"]["forward_rows"] == 48
    # Without the flag it is isolated too, as its class asks for it: only then is there a limit to exceed.
    verdict = run(2, "--time-limit", "0.001")
    assert verdict["outcome"] == "error"
    assert verdict["error"]["type"] == "IsolationError"

    (tmp_path / "acme.licence").write_text(licence(python, days=-1))
    verdict = run(2)
    assert verdict["outcome"] == "error"
    assert "expired on" in verdict["error"]["message"]

    module = tmp_path / "site" / "acme_closed.abi3.so"
    module.write_bytes(module.read_bytes().replace(b"expired on", b"EXPIRED ON"))
    (tmp_path / "acme.licence").write_text(good)
    verdict = run(2)
    assert verdict["outcome"] == "error"
    assert "changed acme_closed.abi3.so" in verdict["summary"]
    done = command("plugin", "trust", "acme-closed", code=2)
    assert "is not what the signature covers: changed acme_closed.abi3.so" in done.stderr
