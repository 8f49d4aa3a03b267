"""Where results lie: one folder a run, one JSON a unit of work, tensors as safetensors, atomic writes."""

from clipsec.store._artifacts import read_artifact
from clipsec.store._atomic import atomic_write
from clipsec.store._folder import require_new, whole_folder
from clipsec.store._keys import content_key
from clipsec.store._names import safe_name
from clipsec.store._runs import RunFolder, RunStore, read_run
from clipsec.store._units import Unit, UnitStore

__all__ = [
    "RunFolder",
    "RunStore",
    "Unit",
    "UnitStore",
    "atomic_write",
    "content_key",
    "read_artifact",
    "read_run",
    "require_new",
    "safe_name",
    "whole_folder",
]
