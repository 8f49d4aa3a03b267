"""Which clipsec plugins are installed, whose they are, whether to trust them, and why one failed.

    registry = Registry("detectors", lock=find_lock())
    for record in registry.records():            # imports no plugin
        print(record.canonical_name, record.status, record.reason)
    detector = registry.load(registry.find("detectors", "clip-inspector"))

Knows neither torch nor CLIP, and imports nothing heavy: stevedore only when a plugin is loaded, tomllib
only when there is a lock.
"""

from clipsec_registry._api import API_VERSION, OLDEST_API_VERSION, misfit, parse_api_range
from clipsec_registry._errors import (
    LockError,
    PluginConflictError,
    PluginError,
    PluginIncompatibleError,
    PluginLoadError,
    PluginNotFoundError,
    PluginTrustError,
    SignatureError,
)
from clipsec_registry._files import ERROR_RATES
from clipsec_registry._lock import (
    LOCK_NAME,
    Lock,
    LockedDistribution,
    Refusal,
    TrustProblem,
    check,
    find_lock,
    read_lock,
    write_lock,
)
from clipsec_registry._names import FIRST_PARTY, reserved_for
from clipsec_registry._records import Kind, PluginRecord, Status
from clipsec_registry._registry import Registry
from clipsec_registry._signatures import read_public_key, sign_wheel, write_key_pair
from clipsec_registry._text import printable
from clipsec_registry._trust import ByPublisher, BySignature, trust

__all__ = [
    "API_VERSION",
    "ERROR_RATES",
    "FIRST_PARTY",
    "LOCK_NAME",
    "OLDEST_API_VERSION",
    "ByPublisher",
    "BySignature",
    "Kind",
    "Lock",
    "LockError",
    "LockedDistribution",
    "PluginConflictError",
    "PluginError",
    "PluginIncompatibleError",
    "PluginLoadError",
    "PluginNotFoundError",
    "PluginRecord",
    "PluginTrustError",
    "Refusal",
    "Registry",
    "SignatureError",
    "Status",
    "TrustProblem",
    "check",
    "find_lock",
    "misfit",
    "parse_api_range",
    "printable",
    "read_lock",
    "read_public_key",
    "reserved_for",
    "sign_wheel",
    "trust",
    "write_key_pair",
    "write_lock",
]
