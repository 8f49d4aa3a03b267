"""What a result must say about where it was made."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = (
    "clipsec",
    "clipsec-registry",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "timm",
    "numpy",
)


@cache
def environment() -> dict[str, str]:
    """Versions of what matters, the git revision of a development checkout, and the machine."""
    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["torch threads"] = str(torch.get_num_threads())
    facts["cpu"] = _cpu_name()
    if torch.cuda.is_available():
        facts["cuda device"] = torch.cuda.get_device_name(0)
    revision = _git_revision()
    if revision:
        facts["git revision"] = revision
    return facts


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, 'unknown')} ({torch.backends.cpu.get_cpu_capability()})"


def _git_revision() -> str:
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # A site-packages folder inside somebody else's repository is not our revision.
    return done.stdout.strip() if done.returncode == tracked.returncode == 0 else ""
