"""Captions and prompts: what texts name a class.

Captions come from `context.captions` where a caption names exactly one class; without a file, or for classes
that no caption names, they are made from templates. The templates of queries and of pools are disjoint, so
that no query finds its own words.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clipsec.exposure import QUERY_TEMPLATES, named_classes
from clipsec.protocols import Context

PROMPT = "a photo of a {}."
"""The class prompt of zero-shot classification, with the full stop of OpenAI's templates."""

POOL_TEMPLATES = (
    "{}",
    "the {}",
    "a {} outdoors",
    "a {} indoors",
    "my favourite {}",
    "a low resolution photo of a {}.",
    "a blurry photo of the {}.",
    "a black and white photo of a {}.",
    "a {} beside something else",
    "an old photo of a {}",
    "a {} as it is seen every day",
    "two views of a {}",
)


@attrs.frozen
class Caption:
    """A text and the class that it names; -1 for none or several."""

    text: str
    label: int


def class_prompts(names: Sequence[str]) -> list[str]:
    """One prompt a class."""
    return [PROMPT.format(name.replace("_", " ")) for name in names]


def labelled_captions(texts: Sequence[str], names: Sequence[str]) -> list[Caption]:
    """Each text with the one class that it names."""
    found = []
    for text in texts:
        named = named_classes(text, names)
        found.append(Caption(text, named[0] if len(named) == 1 else -1 if not named else -2))
    # A caption that names several classes is neither a target nor a distractor.
    return [caption for caption in found if caption.label != -2]


def queries(names: Sequence[str], labels: Sequence[int]) -> list[Caption]:
    """Every query template for each of the classes, template by template."""
    return [
        Caption(template.format(names[label].replace("_", " ")), label)
        for template in QUERY_TEMPLATES
        for label in labels
    ]


def caption_pool(context: Context, names: Sequence[str]) -> tuple[list[Caption], str]:
    """Captions to search among, and a note on where they come from.

    The given captions, and made ones for the classes that they leave without any.
    """
    given = [] if context.captions is None else labelled_captions(context.captions.texts, names)
    named = {caption.label for caption in given}
    lacking = [label for label in range(len(names)) if label not in named]
    made = [
        Caption(template.format(names[label].replace("_", " ")), label)
        for template in POOL_TEMPLATES
        for label in lacking
    ]
    if not given:
        return made, "captions were made from templates; real ones: --captions FILE"
    note = f"captions of {len(lacking)} of {len(names)} classes were made from templates" if lacking else ""
    return given + made, note
