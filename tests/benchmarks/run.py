"""Print the benchmark table: `python -m tests.benchmarks.run [NAME ...]`, from the repository's root."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable

import torch
from tests.benchmarks import towers
from tests.benchmarks._machine import describe
from tests.benchmarks._timing import CLOCKS, Row, table

Benchmark = Callable[[str, int], list[Row]]


def benchmarks() -> dict[str, Benchmark]:
    """All of them by name. Those in files of their own need the detector."""
    found: dict[str, Benchmark] = dict(towers.BENCHMARKS)
    for name, file in (("inversion", "all_class_inversion"), ("isolation", "isolation")):
        if importlib.util.find_spec(f"tests.benchmarks.{file}") is not None:
            found[name] = importlib.import_module(f"tests.benchmarks.{file}").rows
    return found


def main() -> None:
    """Run the chosen benchmarks (all by default) and print one Markdown table under the machine's
    description."""
    known = benchmarks()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(known)}; all by default")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu is steadier on a busy machine"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads; by default what OMP_NUM_THREADS says")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for name in given.names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += known[name](given.clock, given.repeats)
    print(f"{describe(given.clock)}, median of {given.repeats}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
