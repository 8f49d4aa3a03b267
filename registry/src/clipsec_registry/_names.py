"""Names: how they are compared, which belong to this project, and which look like them."""

from __future__ import annotations

import re

FIRST_PARTY = frozenset(
    {
        "clipsec",
        "clipsec-amdet",
        "clipsec-bad-text-tower",
        "clipsec-baselines",
        "clipsec-clip-inspector",
        "clipsec-decree",
        "clipsec-dife",
        "clipsec-registry",
        "clipsec-repairs",
        "clipsec-sample-detectors",
        "clipsec-testkit",
        "clipsec-visual-attacks",
        "clipsec-zoo",
    }
)
"""The project's own distributions, as normalised names. An index lets nobody else take these; another
index, or a folder on the path, may: only a lock file proves what a name does not."""

LOCAL = "local"
"""Stands for a distribution in the names of plugins from unpackaged files; no distribution may have it."""

_RESERVED = {
    "clipsec": "console html json junit local open-clip prompt-tuned ray sarif transformers",
    "clipsec-amdet": "amdet",
    "clipsec-bad-text-tower": "bad-text-tower",
    "clipsec-baselines": "badclip badnets blended cocoop coop neural-cleanse pixel-backdoor siba wanet",
    "clipsec-clip-inspector": "clip-inspector clip-inspector-plus",
    "clipsec-decree": "decree",
    "clipsec-dife": "dife",
    "clipsec-repairs": "anchor-distillation cleanclip par",
    "clipsec-sample-detectors": "bdetclip local-density",
    "clipsec-visual-attacks": "bad-encoder contrastive-poisoning liang-badclip mm-poison toxic-text",
    "clipsec-zoo": "zoo",
}
"""Bare plugin names that only the project's own distributions may use, and which one offers them."""

_DISTRIBUTION = re.compile(r"[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?", re.ASCII | re.IGNORECASE)
_VALUE = re.compile(r"(\w+(?:\.\w+)*)\s*:\s*\w+(?:\.\w+)*\s*(?:\[[^\]]*\]\s*)?")


def normalise(name: str) -> str:
    """The form in which names are compared (PEP 503): lower case, runs of `-_.` as one dash."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_name(name: str) -> bool:
    """Whether it is made of ASCII letters, digits and inner `.`, `_`, `-`: no look-alike characters."""
    return bool(_DISTRIBUTION.fullmatch(name))


def module_of(value: str) -> str | None:
    """The module of an entry point value `module:attribute`; None when it is not of that form."""
    match = _VALUE.fullmatch(value)
    return match[1] if match else None


def _squeeze(name: str) -> str:
    return re.sub(r"[-_.]+", "", name).lower()


_OWNERS = {_squeeze(name): owner for owner, names in _RESERVED.items() for name in names.split()}


def reserved_for(name: str) -> str | None:
    """The first-party distribution that a bare plugin name belongs to, in whichever spelling; else None."""
    squeezed = _squeeze(name)
    return _OWNERS.get(squeezed) or ("clipsec" if squeezed.startswith("clipsec") else None)


def resembled(distribution: str) -> str | None:
    """The first-party distribution that a third party's name could be mistaken for, else None."""
    from difflib import get_close_matches

    by_squeezed = {_squeeze(name): name for name in sorted(FIRST_PARTY)}
    close = get_close_matches(_squeeze(distribution), by_squeezed, n=1, cutoff=0.9)
    return by_squeezed[close[0]] if close else None
