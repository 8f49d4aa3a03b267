"""Make a virtual environment with every distribution of the workspace, editable, and the development tools.

Run by `make install` and `make docs`; needs nothing but Python 3.11. What is installed is listed in
pyproject.toml (`tool.clipsec.workspace`, and the dependency group `dev` or those that are named), the
versions that were tested in constraints.txt.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: str, *groups: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the script that people run with an older one
        version = sys.version.split()[0]
        sys.exit(f"clipsec needs Python 3.11 or newer; this is {version}. Try: make PYTHON=python3.12")
    environment = Path(folder)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(environment, with_pip=True)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    members = settings["tool"]["clipsec"]["workspace"]["members"]
    packages = [part for member in members for part in ("--editable", str(ROOT / member))]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    wanted = [package for group in groups or ("dev",) for package in settings["dependency-groups"][group]]
    print("Installing clipsec and its development tools (PyTorch is large: some minutes) ...", flush=True)
    done = subprocess.run([*pip, *constraints, *packages, *wanted], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
