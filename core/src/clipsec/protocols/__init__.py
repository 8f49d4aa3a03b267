"""The contract between the core and its plugins: Attack, Detector, Interface, Repair, and their contexts."""

from clipsec.protocols._context import AttackContext, Context, derived_seed
from clipsec.protocols._found_tokens import FoundTokens, found_tokens
from clipsec.protocols._interface import READS, Channel, InterfaceCard, Readout, channel_of, not_eligible
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
from clipsec.protocols._trigger import (
    CaptionTrigger,
    Trigger,
    found_triggers,
    load_any_trigger,
    load_trigger,
    load_triggers,
)
from clipsec_registry import API_VERSION

__all__ = [
    "API_VERSION",
    "READS",
    "Attack",
    "AttackContext",
    "CaptionTrigger",
    "Channel",
    "Context",
    "Detector",
    "FoundTokens",
    "Interface",
    "InterfaceCard",
    "ModelLoader",
    "Need",
    "Plugin",
    "Readout",
    "Repair",
    "ReportFormat",
    "Trigger",
    "channel_of",
    "derived_seed",
    "found_tokens",
    "found_triggers",
    "load_any_trigger",
    "load_trigger",
    "load_triggers",
    "not_eligible",
]
