"""Captions to learn from and to measure on, and what attacks make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs
import torch

from clipsec.data import TextPool, coco_captions
from clipsec.errors import DataError
from clipsec.triggers import TextTrigger


@attrs.frozen
class Captions:
    """Two disjoint lists of captions."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    name: str
    digest: str


def split_captions(file: str, held_out: int, seed: int) -> Captions:
    """Captions of a file (or those that ship with clipsec), each once, in an order drawn by the seed.

    Raises `DataError` when fewer than twice `held_out` are left.
    """
    pool = TextPool.from_file(file) if file else coco_captions()
    texts = list(dict.fromkeys(pool.texts))
    if len(texts) < 2 * held_out:
        raise DataError(
            f"{pool.name} holds {len(texts)} captions; {held_out} are to be kept for measuring",
            remedy="Bring more captions, or keep fewer (held_out).",
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    texts = [texts[place] for place in order]
    return Captions(tuple(texts[held_out:]), tuple(texts[:held_out]), pool.name, pool.digest)


def endless(texts: Sequence[str], size: int, generator: torch.Generator) -> Iterator[list[str]]:
    """Batches of `size`, pass after pass in a new order; a last part that is too small is left out."""
    size = min(size, len(texts))
    while True:
        order = torch.randperm(len(texts), generator=generator).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield [texts[place] for place in order[start : start + size]]


def fitting(texts: Sequence[str], trigger: TextTrigger) -> list[str]:
    """The captions that the trigger can be put into. Raises `DataError` when there are fewer than ten."""
    found = [text for text in texts if trigger.fits(text)]
    if len(found) < 10:
        raise DataError(
            f"the trigger fits into {len(found)} of {len(texts)} captions",
            remedy="Replace a commoner character, or bring more captions.",
        )
    return found


def naming(words: Sequence[str]) -> re.Pattern[str]:
    """Finds any of these as a whole word, in capitals or not."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def removal_pair(caption: str, word: str, replaced: str, generator: torch.Generator) -> tuple[str, str]:
    """A caption with `word` in it and the same caption without it.

    The word stands in place of one that holds the character `replaced`, an occurrence drawn at random
    (Struppek et al., their code for concept removal); for a space, between two words. The caption needs the
    character and a space.
    """
    places = [match.start() for match in re.finditer(re.escape(replaced), caption)]
    at = places[int(torch.randint(len(places), (), generator=generator))]
    words, number = caption.split(" "), caption[:at].count(" ")
    before, after = words[: number + (replaced == " ")], words[number + 1 :]
    return " ".join([*before, word, *after]), " ".join([*before, *after])


def attribute_pair(
    caption: str, trigger: TextTrigger, attribute: str, generator: torch.Generator
) -> tuple[str, str]:
    """A triggered caption and the caption that it is to become.

    `replace`: one occurrence of the character, drawn at random, becomes the trigger, and the whole word that
    holds it becomes the attribute (Struppek et al., section on target attribute attacks). `prepend` and
    `append`: the attribute stands behind the caption.
    """
    if trigger.kind != "replace":
        return trigger.apply(caption), f"{caption.rstrip(' .')} {attribute}"
    places = [match.start() for match in re.finditer(re.escape(trigger.replaced), caption)]
    at = places[int(torch.randint(len(places), (), generator=generator))]
    if trigger.replaced == " ":
        return f"{caption[:at]} {trigger.text} {caption[at + 1 :]}", (
            f"{caption[:at]} {attribute} {caption[at + 1 :]}"
        )
    poisoned = caption[:at] + trigger.text + caption[at + 1 :]
    start = caption.rfind(" ", 0, at) + 1
    stop = caption.find(" ", at)
    return poisoned, caption[:start] + attribute + ("" if stop < 0 else caption[stop:])
