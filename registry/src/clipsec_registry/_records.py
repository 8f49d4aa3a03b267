"""What is known about one plugin."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

from clipsec_registry._names import normalise

if TYPE_CHECKING:
    from pathlib import Path

    from clipsec_registry._discovery import Offer


class Kind(enum.StrEnum):
    """What a plugin is for. The value is also the end of its entry-point group, `clipsec.VALUE`."""

    ATTACKS = "attacks"
    DETECTORS = "detectors"
    INTERFACES = "interfaces"
    REPAIRS = "repairs"
    MODELS = "models"
    ENGINES = "engines"
    REPORTS = "reports"

    @property
    def group(self) -> str:
        """The entry-point group, e.g. `clipsec.detectors`."""
        return f"clipsec.{self.value}"


class Status(enum.StrEnum):
    """Whether a plugin can be used. Every status but `ok` comes with a reason and a remedy."""

    OK = "ok"
    """Nothing is known against it. Only with `PluginRecord.loaded` has it been imported."""
    FAILED = "failed"
    """It cannot be imported."""
    UNTRUSTED = "untrusted"
    """The lock does not list it as it is, or it is unclear whose code it would import. Never imported."""
    INCOMPATIBLE = "incompatible"
    """It was written for another plugin API."""
    CONFLICTING = "conflicting"
    """Its bare name belongs to somebody else, or to several. Its canonical name works."""


@attrs.frozen(kw_only=True)
class PluginRecord:
    """One entry point, and whether it can be used.

    Texts that come from the plugin hold printable characters only, one line each.
    """

    kind: Kind
    name: str
    """The bare name, as the plugin spells it."""
    distribution: str
    """The installed distribution that offers it, normalised (PEP 503)."""
    version: str
    value: str
    """What would be imported, `module:attribute`."""
    first_party: bool
    summary: str = ""
    """The distribution's summary; once loaded, the plugin's own."""
    licence: str = ""
    editable: bool = False
    """Installed in development mode: its files change without a reinstall."""
    local: bool = False
    """From an unpackaged file (`--plugin-path`): `distribution` is `local`, `version` the file's sha256, and
    results are never reused."""
    status: Status = Status.OK
    reason: str = ""
    remedy: str = ""
    loaded: bool = False
    """Whether it was imported successfully in this process."""
    api_version: str = ""
    """The plugin API it was written for, or the range that it accepts; known once imported."""
    _offer: Offer = attrs.field(repr=False, eq=False)

    @property
    def canonical_name(self) -> str:
        """`distribution/name`, in normalised spelling; unique within a kind."""
        return f"{self.distribution}/{normalise(self.name)}"

    @property
    def local_file(self) -> Path | None:
        """The unpackaged file it comes from, if it is `local`."""
        return self._offer.by.folder if self.local else None

    @property
    def digest(self) -> str:
        """Over the distribution's files as they are now (`sha256:...`), read anew at each use."""
        from clipsec_registry._files import digests, total

        return total(digests(self._offer.by))

    @property
    def code_digest(self) -> str:
        """The same without the error-rate cards (`error_rates/*.json`), which are measured with the rest.

        Part of the keys under which results are kept: an edited plugin is another plugin, one that ships
        what was measured of it is not.
        """
        from clipsec_registry._files import digests, is_measurement, total

        files = digests(self._offer.by)
        return total({name: files[name] for name in files if not is_measurement(name)})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `clipsec list --json`."""
        names = [field.name for field in attrs.fields(type(self)) if field.name != "_offer"]
        values = {name: getattr(self, name) for name in names}
        return (
            {"canonical_name": self.canonical_name}
            | values
            | {"kind": self.kind.value, "status": self.status.value}
        )
