"""What holds for every test of the workspace: one thread, a small heap, toys that are trained once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

# Bit-equality is promised for one thread. Here, since torch reads it when it is imported; the programs that
# tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """What importing torch left behind is not garbage: a collection after an injected out of memory, else a
    quarter of a second, need only look at what the tests make."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At its end the program collects what is left, without complaints of native libraries about leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _toys_are_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests start load the toys that were trained first; a folder that is set already stays."""
    with pytest.MonkeyPatch.context() as patch:
        if "CLIPSEC_TOYS" not in os.environ:
            patch.setenv("CLIPSEC_TOYS", str(tmp_path_factory.mktemp("toys")))
        yield
