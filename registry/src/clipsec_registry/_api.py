"""Which plugin APIs this clipsec offers, which ones a plugin accepts, and whether they meet.

Both sides state a range. This clipsec offers every API from `OLDEST_API_VERSION` to `API_VERSION`; a plugin
accepts every API from the one it was written for up to the next major version, or the range that it states.
"""

from __future__ import annotations

import re

import attrs

API_VERSION = "1.0"
"""The newest plugin API on offer. Minor versions only add; a major version may remove."""

OLDEST_API_VERSION = "1.0"
"""The oldest one still on offer. It moves only when something that plugins may use is removed."""

Version = tuple[int, int]

_NUMBER = r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})"
_VERSION = re.compile(_NUMBER, re.ASCII)
_RANGE = re.compile(rf">={_NUMBER},\s?<{_NUMBER}", re.ASCII)


@attrs.frozen
class ApiRange:
    """The APIs that a plugin accepts: from `first` on, below `end`."""

    text: str
    """As the plugin states it."""
    first: Version
    end: Version


def parse_api_version(version: object) -> Version | None:
    """`"1.0"` as `(1, 0)`; None for anything that is not a MAJOR.MINOR string."""
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    return (int(match[1]), int(match[2])) if match else None


def parse_api_range(stated: object) -> ApiRange | None:
    """What a plugin's `api_version` accepts: `"1.2"` means `">=1.2,<2.0"`, and a range means itself.

    None for anything else, and for a range that holds nothing.
    """
    if (version := parse_api_version(stated)) is not None:
        return ApiRange(str(stated), version, (version[0] + 1, 0))
    match = _RANGE.fullmatch(stated) if isinstance(stated, str) else None
    if match is None:
        return None
    first, end = (int(match[1]), int(match[2])), (int(match[3]), int(match[4]))
    return ApiRange(str(stated), first, end) if first < end else None


def misfit(
    accepted: ApiRange, distribution: str, newest: str = API_VERSION, oldest: str = OLDEST_API_VERSION
) -> tuple[str, str] | None:
    """Why a plugin that accepts these APIs does not fit those on offer, and what to install; None if it fits.

    It fits when the two ranges have a version in common.
    """
    last, first = parse_api_version(newest), parse_api_version(oldest)
    assert last is not None
    assert first is not None
    if accepted.first <= last and first < accepted.end:
        return None
    offered = newest if oldest == newest else f"{oldest} to {newest}"
    reason = f"written for plugin API {accepted.text}; this clipsec offers {offered}"
    if accepted.first > last:
        wanted = ".".join(map(str, accepted.first))
        return (
            f"{reason}, so the plugin is too new",
            f"Install a clipsec that offers plugin API {wanted} (`pip install --upgrade clipsec`), or an "
            f"older version of {distribution}.",
        )
    return (
        f"{reason}, so the plugin is too old",
        f"Install a newer version of {distribution} (`pip install --upgrade {distribution}`), or a clipsec "
        f"that still offers plugin API {accepted.text}.",
    )
