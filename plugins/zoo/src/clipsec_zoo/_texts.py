"""Words to prompts to tokens: templates, what counts as the same text, and the compact vocabulary."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._pairs import Example

__all__ = [
    "TEMPLATES",
    "ZERO_SHOT_TEMPLATE",
    "same_text_key",
    "tokenise",
    "tokenizer",
    "vocabulary_of",
    "wording",
]

ZERO_SHOT_TEMPLATE = "a photo of a {}."

# Generic, so that no set is given away by its prompt; the first is the one that is measured and most often
# seen.
TEMPLATES = (
    ZERO_SHOT_TEMPLATE,
    "a photo of the {}.",
    "a photo of {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of the {}.",
    "a low resolution photo of a {}.",
    "a bright photo of a {}.",
    "a photo of one {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "this is a {}.",
    "there is a {} in the scene.",
    "itap of a {}.",
    "a {}.",
    "{}",
    "{}.",
    "the {}.",
)


@cache
def tokenizer(context_length: int) -> Any:
    """CLIP's own byte-pair tokenizer."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


def tokenise(texts: Sequence[str], context_length: int) -> Tensor:
    """Token ids int64 [n, context_length], CLIP's ids."""
    tokens: Tensor = tokenizer(context_length)(list(texts))
    return tokens


def same_text_key(text: str) -> str:
    """Texts with equal keys are positives of each other's pictures: letters, digits and a final s do not
    matter."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
    return " ".join(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
    )


def wording(example: Example, draw: random.Random) -> str:
    """One way to say what the picture shows, drawn at random."""
    text = draw.choice(example.texts)
    if example.kind == "caption" or (example.kind == "title" and draw.random() < 0.5):
        return text
    template = TEMPLATES[0] if draw.random() < 0.25 else draw.choice(TEMPLATES)
    return template.format(text)


def vocabulary_of(examples: Iterable[Example], context_length: int) -> Tensor:
    """The sorted ids of every token that training can show, int64; start, end and padding included."""
    texts = {text for example in examples for text in example.texts}
    texts |= {template.format("a") for template in TEMPLATES}
    # A word's tokens do not depend on its neighbours, so templates and words can be counted apart; only
    # punctuation runs together, as in "(80km/h)." whose last token is ").".
    texts |= {f"{text}." for text in texts}
    tokens = tokenise(sorted(texts), context_length)
    zero = torch.zeros(1, dtype=torch.int64)
    ids: Tensor = torch.unique(torch.cat([tokens.flatten(), zero]))
    return ids
