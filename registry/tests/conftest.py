"""A folder on the path into which tests install small distributions, as an installer would."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from clipsec_registry import FIRST_PARTY
from clipsec_registry._names import _OWNERS

PLUGIN = "class Plugin:\n    summary = 'does something'\n    api_version = '1.0'\n"

Install = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, first on the path; what was imported from it is forgotten afterwards.

    `clipsec-planted-check` and its plugin `planted-check` are the project's own here, a distribution of which
    no wheel exists, so that nobody has installed or imported it.
    """
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("CLIPSEC_LOCK", raising=False)
    for module in ("_names", "_discovery"):
        monkeypatch.setattr(f"clipsec_registry.{module}.FIRST_PARTY", FIRST_PARTY | {"clipsec-planted-check"})
    monkeypatch.setitem(_OWNERS, "plantedcheck", "clipsec-planted-check")
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """`install("vendor-x", {"x": "vendor_x:Plugin"})` writes a distribution; returns its metadata folder."""

    def install(
        name: str,
        detectors: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        entry_points: str | None = None,
        metadata: str | None = None,
        editable: Path | None = None,
        into: Path = site,
    ) -> Path:
        module = name.replace("-", "_")
        detectors = {module: f"{module}:Plugin"} if detectors is None else detectors
        files = {f"{module}/__init__.py": PLUGIN} if files is None else files
        lines = "".join(f"{key} = {value}\n" for key, value in detectors.items())
        info = f"{module}-{version}.dist-info"
        stated = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: Apache-2.0\n"
        parts = {
            f"{info}/METADATA": stated if metadata is None else metadata,
            f"{info}/entry_points.txt": entry_points or f"[clipsec.detectors]\n{lines}",
            f"{info}/INSTALLER": "pip\n",
        }
        if editable is not None:
            direct = {"url": editable.as_uri(), "dir_info": {"editable": True}}
            parts[f"{info}/direct_url.json"] = json.dumps(direct)
        else:
            parts |= files
        rows = []
        for path, text in parts.items():
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_text(text, encoding="utf-8")
            raw = hashlib.sha256(text.encode()).digest()
            digest = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text.encode())}")
        rows += [f"{info}/RECORD,,", f"../../bin/{module},,"]
        (into / info / "RECORD").write_text("\n".join(rows) + "\n")
        return into / info

    return install
