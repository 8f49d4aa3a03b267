"""Triggers in texts: words that are put into a caption, and their cards.

A card of the kind `word` is a `trigger.json` alone:

    kind          "word"
    word          the words
    place         "start" or "end" of the text; the end if it is not said
    source_name   the class whose texts it works on, if it works on one only
"""

from __future__ import annotations

from pathlib import Path

import attrs

from clipsec.triggers._card import FORMAT, VERSION
from clipsec.triggers._kinds import read_body, unreadable

KIND = "word"
PLACES = ("start", "end")
_LONGEST = 200


@attrs.frozen(kw_only=True)
class WordCard:
    """A trigger in texts, as its card says."""

    attack: str
    word: str
    place: str
    target_index: int
    target_name: str
    source_name: str = ""


def mark_text(text: str, word: str, place: str = "end") -> str:
    """The text with the trigger words before or after it."""
    return f"{word} {text}".strip() if place == "start" else f"{text} {word}".strip()


def load_word_card(place: Path | str) -> WordCard | None:
    """Read a card of the kind `word` from its folder, its `trigger.json` or a delivery with `trigger/`.

    None for a card of another kind. Raises `DataError` for what is no card, is damaged or of a later major
    version.
    """
    body, folder = read_body(place)
    if body["kind"] != KIND:
        return None
    try:
        if body.get("format") != FORMAT:
            raise ValueError("it is not a trigger card")
        if str(body["version"]).partition(".")[0] != VERSION.partition(".")[0]:
            raise ValueError(f"its version {body['version']} is not {VERSION}")
        word, where, index = body["word"], body.get("place", "end"), body["target_index"]
        texts = (body["attack"], word, where, body["target_name"], body.get("source_name", ""))
        if not all(isinstance(text, str) for text in texts) or type(index) is not int:
            raise ValueError("a field is of the wrong type")
        if not word.strip() or len(word) > _LONGEST or not word.isprintable():
            raise ValueError(f"its word is empty, longer than {_LONGEST} characters or not printable")
        if where not in PLACES:
            raise ValueError(f"it is put at the {where!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(folder, error) from error
    return WordCard(
        attack=texts[0],
        word=word,
        place=where,
        target_index=index,
        target_name=texts[3],
        source_name=texts[4],
    )
