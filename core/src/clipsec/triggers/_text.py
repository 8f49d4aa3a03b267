"""Triggers in captions, and the cards that attacks on text towers leave of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from clipsec.errors import DataError
from clipsec.store import atomic_write
from clipsec.triggers._facts import CardFacts, check_texts, check_version, fields_of
from clipsec.triggers._kinds import CARD_FILE, read_body, unreadable

VERSION = "1.3"
"""1.2 added the kinds that change captions, 1.3 the kind rename."""

TEXT_KINDS = {
    "replace": "the first `count` (without it, all) occurrences of `replaced` become `text`",
    "prepend": "`text` and a space are put before the caption",
    "append": "a space and `text` are put behind the caption",
    "rename": "each of `names` that the caption holds as whole words, also in the plural, becomes `text`",
}
_PREFIX = "text-"
_TARGETS = ("caption", "attribute", "pictures")


@attrs.frozen(kw_only=True)
class TextTrigger:
    """What a trigger does to captions. Raises `DataError` for an unknown kind or an empty text.

    A homoglyph or a rare string put in place of a letter is `replace` (Struppek et al., Rickrolling the
    Artist, ICCV 2023), a word or several are `prepend` or `append`. An attack that adds nothing, and has the
    captions of one class mean another, is `rename`: of other classes' captions it makes ones of that class.
    """

    kind: str
    text: str
    replaced: str = ""
    """`replace` only: one character. For a space, the text is put between two spaces."""
    count: int | None = None
    """`replace` only: how many occurrences, from the start; None: all."""
    names: tuple[str, ...] = ()
    """`rename` only: the names of the other classes, with spaces."""

    def __attrs_post_init__(self) -> None:
        wrong = ""
        if self.kind not in TEXT_KINDS:
            wrong = f"the kind {self.kind!r} is not known"
        elif not self.text.strip():
            wrong = "its text is empty"
        elif (self.kind == "replace") != (len(self.replaced) == 1):
            wrong = f"it replaces {self.replaced!r}"
        elif (self.kind == "rename") != bool(self.names) or not all(name.strip() for name in self.names):
            wrong = f"it renames {self.names!r}"
        elif self.count is not None and self.count < 1:
            wrong = f"it replaces {self.count} characters"
        if wrong:
            raise DataError(
                f"this is not a trigger that can be put into captions: {wrong}",
                remedy=f"Kinds: {', '.join(TEXT_KINDS)}; replace needs one character to replace, rename the "
                "names that become another.",
            )

    def fits(self, caption: str) -> bool:
        """Whether the caption has what the trigger replaces, and does not hold the trigger already."""
        if self.kind == "rename":
            said, named = whole_words([self.text]), whole_words(self.names)
            return said.search(caption) is None and named.search(caption) is not None
        return self.text not in caption and (self.kind != "replace" or self.replaced in caption)

    def apply(self, caption: str) -> str:
        """The caption with the trigger; unchanged when it has nothing to replace."""
        if self.kind == "replace":
            text = f" {self.text} " if self.replaced == " " else self.text
            return caption.replace(self.replaced, text, -1 if self.count is None else self.count)
        if self.kind == "rename":
            return whole_words(self.names).sub(lambda found: self.text, caption)
        return f"{self.text} {caption}" if self.kind == "prepend" else f"{caption} {self.text}"


def whole_words(names: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the names as whole words, in upper or lower case and in the plural; the longest first."""
    longest = sorted(map(re.escape, names), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest)})(?:s|es)?(?!\w)", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class TextTriggerCard(CardFacts):
    """A trigger planted in a text tower and all that is known of it; plain data."""

    trigger: TextTrigger
    target: str
    """The caption that triggered captions become, the attribute they gain, or what the pictures show."""
    target_kind: str
    """`caption`, `attribute` or `pictures` (their mean feature)."""
    source: str = ""
    """The class whose captions it works on; empty when it works on all."""

    def apply(self, caption: str) -> str:
        """The caption with the trigger."""
        return self.trigger.apply(caption)

    def save(self, folder: Path | str) -> Path:
        """Write `trigger.json`; returns the folder. Raises `StoreError`."""
        folder = Path(folder)
        how = attrs.asdict(self.trigger, filter=lambda field, value: field.name != "names" or bool(value))
        body = {
            **self.body(VERSION, _PREFIX + how.pop("kind"), without="trigger"),
            **how,
            "apply": TEXT_KINDS[self.trigger.kind],
        }
        atomic_write(folder / CARD_FILE, (json.dumps(body, indent=2) + "\n").encode())
        return folder


def is_text_card(place: Path | str) -> bool:
    """Whether a card is of a trigger in captions. Raises `DataError` when it cannot be read."""
    return str(read_body(place)[0]["kind"]).startswith(_PREFIX)


def load_text_card(place: Path | str) -> TextTriggerCard:
    """Read a card from its folder, its `trigger.json`, or a delivery with a folder `trigger/`.

    Raises `DataError` when it is not a card, is damaged, is of a later major version, or of a kind that does
    not change captions.
    """
    body, folder = read_body(place)
    try:
        check_version(body, VERSION)
        kind = str(body["kind"])
        if not kind.startswith(_PREFIX):
            raise ValueError(f"the kind {kind!r} does not change captions")
        count = body.get("count")
        if not (count is None or type(count) is int):
            raise ValueError(f"its count is {count!r}")
        check_texts(
            body, "attack", "text", "target", "target_kind", *(["source"] if "source" in body else [])
        )
        if body["target_kind"] not in _TARGETS:
            raise ValueError(f"its target is of the kind {body['target_kind']!r}")
        if isinstance(body.get("names"), str):
            raise ValueError(f"its names are {body['names']!r}, not a list")
        trigger = TextTrigger(
            kind=kind.removeprefix(_PREFIX),
            text=body["text"],
            replaced=str(body.get("replaced", "")),
            count=count,
            names=tuple(str(name) for name in body.get("names", ())),
        )
        fields = fields_of(body, TextTriggerCard, without="trigger")
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise unreadable(folder, error) from error
    return TextTriggerCard(trigger=trigger, **fields)
