"""The contract between the core and its plugins: Attack, Detector, Interface, Repair, and their contexts."""

from clipsec.protocols._context import AttackContext, Context, derived_seed
from clipsec.protocols._kinds import (
    Attack,
    Detector,
    Interface,
    ModelLoader,
    Need,
    Plugin,
    Repair,
    ReportFormat,
)
from clipsec.protocols._trigger import Trigger, found_triggers, load_trigger
from clipsec_registry import API_VERSION

__all__ = [
    "API_VERSION",
    "Attack",
    "AttackContext",
    "Context",
    "Detector",
    "Interface",
    "ModelLoader",
    "Need",
    "Plugin",
    "Repair",
    "ReportFormat",
    "Trigger",
    "derived_seed",
    "found_triggers",
    "load_trigger",
]
