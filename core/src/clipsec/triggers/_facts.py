"""What every trigger card says, whether its trigger changes pictures or captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

FORMAT = "clipsec trigger card"
_TUPLES = ("references", "target_names")


@attrs.frozen(kw_only=True, eq=False)
class CardFacts:
    """Who planted a trigger, in what, with which options, and what it does. Plain data."""

    attack: str
    """Name of the plugin: `badclip`, `blended`, ..."""
    seed: int = 0
    base_name: str = ""
    base_digest: str = ""
    """Of the clean model that the attack started from; prompts sit on it."""
    parameters: dict[str, Any] = attrs.field(factory=dict)
    """The attack's options."""
    data: dict[str, Any] = attrs.field(factory=dict)
    """What it was trained and measured on."""
    measured: dict[str, Any] = attrs.field(factory=dict)
    """Rates by part (`seen`, `unseen`, `base`; `text`) and name (`success`, `accuracy`, ...): value, n,
    interval, or a mean cosine similarity."""
    references: tuple[str, ...] = ()

    def body(self, version: str, kind: str, *, without: str) -> dict[str, Any]:
        """The card's JSON, but for what its trigger adds: all fields save the one that holds the trigger."""
        plain = attrs.asdict(self, filter=attrs.filters.exclude(without))
        return {"format": FORMAT, "version": version, "kind": kind, **plain}


def check_version(body: Mapping[str, Any], version: str) -> None:
    """Raise `ValueError` for what is no card, or one of another major version than this reader's."""
    if body.get("format") != FORMAT:
        raise ValueError("it is not a trigger card")
    if str(body["version"]).partition(".")[0] != version.partition(".")[0]:
        raise ValueError(f"its version {body['version']} is not {version}")


def check_texts(body: Mapping[str, Any], *names: str) -> None:
    """Raise `ValueError` or `KeyError` unless these are texts."""
    for name in names:
        if not isinstance(body[name], str):
            raise ValueError(f"its {name} is {body[name]!r}")


def fields_of(body: Mapping[str, Any], card: type[CardFacts], *, without: str) -> dict[str, Any]:
    """What to make a card of, but for the field that holds the trigger. Raises `TypeError`."""
    names = [field.name for field in attrs.fields(card) if field.name != without and field.name in body]
    return {
        name: tuple(str(each) for each in body[name]) if name in _TUPLES else body[name] for name in names
    }
