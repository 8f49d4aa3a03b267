"""Arrange a data set as CoOp splits it for clipsec: links into DATA/NAME/{train,test}/CLASS/.

    python scripts/coop_split.py split_zhou_Caltech101.json 101_ObjectCategories DATA/caltech101

The first is the file that CoOp's authors give out for each data set, the second the folder that its paths
count from. The file says `{"train": [[picture, label, class name], ...], "val": ..., "test": ...}`. Class
folders are numbered, so that classes stand in CoOp's order and the Seen half is CoOp's; `classnames.json` has
their names. `val` is not used, as in CoOp's few-shot experiments.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

PARTS = ("train", "test")


def arrange(split: dict[str, Any], pictures: Path, output: Path) -> dict[str, str]:
    """Link every picture of the split; returns class folder -> name.

    Raises `SystemExit` when a picture is missing, two classes share a label, or the output is there already.
    """
    if output.exists():
        raise SystemExit(f"{output} exists already. Name another folder, or remove it.")
    missing = [path for part in PARTS for path, _, _ in split[part] if not (pictures / path).is_file()]
    if missing:
        raise SystemExit(
            f"{len(missing)} pictures are not below {pictures}, the first is {missing[0]}. Name the folder "
            "that the paths of the split count from."
        )
    names: dict[int, str] = {}
    for part in PARTS:
        for _, label, name in split[part]:
            if names.setdefault(int(label), name) != name:
                raise SystemExit(
                    f"Label {label} is both {names[int(label)]!r} and {name!r}: this split is damaged."
                )
    width = len(str(max(names)))
    folders = {
        label: f"{label:0{width}}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}" for label, name in names.items()
    }
    for part in PARTS:
        for number, (path, label, _) in enumerate(split[part]):
            link = output / part / folders[int(label)] / f"{number:06}{Path(path).suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink((pictures / path).resolve(), link)
    known = {folders[label]: name.replace("_", " ") for label, name in sorted(names.items())}
    (output / "classnames.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known


def main() -> None:
    """Read the command line."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    split, pictures, output = map(Path, sys.argv[1:])
    known = arrange(json.loads(split.read_text(encoding="utf-8")), pictures, output)
    print(f"{output}: {len(known)} classes, the first {-(-len(known) // 2)} are Seen")


if __name__ == "__main__":
    main()
