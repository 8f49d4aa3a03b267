"""Which plugin API this registry offers, and which plugins fit it."""

from __future__ import annotations

import re

API_VERSION = "1.0"
"""Minor versions only add; a major version may remove."""

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)


def parse_api_version(version: object) -> tuple[int, int] | None:
    """`"1.0"` as `(1, 0)`; None for anything that is not a MAJOR.MINOR string."""
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    return (int(match[1]), int(match[2])) if match else None


def misfit(wanted: tuple[int, int], distribution: str, offered: str = API_VERSION) -> tuple[str, str] | None:
    """Why a plugin written for API `wanted` does not fit the offered one, and what to do; None if it fits.

    It fits when the major versions are equal and it wants no newer minor version.
    """
    ours = parse_api_version(offered)
    assert ours is not None
    if wanted[0] == ours[0] and wanted[1] <= ours[1]:
        return None
    reason = f"written for plugin API {wanted[0]}.{wanted[1]}; this clipsec offers {offered}"
    if wanted > ours:
        return reason, f"Upgrade clipsec, or install an older version of {distribution}."
    return reason, f"Install a newer version of {distribution}, or an older clipsec."
