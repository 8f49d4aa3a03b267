"""Running detectors on suspects: isolation, resume, provenance."""

from clipsec.runner._attack import Attacked, attack, preview, read_pictures_to_attack
from clipsec.runner._audit import audit, default_shared_folder, usable_shared_folder
from clipsec.runner._environment import environment
from clipsec.runner._expose import expose
from clipsec.runner._machine import available_cores, shipped_labelled, shipped_pool, use_all_cores
from clipsec.runner._plugin_options import make_options
from clipsec.runner._recovered import recovered_triggers
from clipsec.runner._repair import repair
from clipsec.runner._repair_choice import choose_finding
from clipsec.runner._repair_measure import load_planted
from clipsec.runner._repair_pictures import measure_rates

__all__ = [
    "Attacked",
    "attack",
    "audit",
    "available_cores",
    "choose_finding",
    "default_shared_folder",
    "environment",
    "expose",
    "load_planted",
    "make_options",
    "measure_rates",
    "preview",
    "read_pictures_to_attack",
    "recovered_triggers",
    "repair",
    "shipped_labelled",
    "shipped_pool",
    "usable_shared_folder",
    "use_all_cores",
]
