"""Models: what a suspect is, how it is loaded, and the frozen towers prepared from it."""

from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._types import ClipModel, ImageSpec, PromptState, TextPart, Tokenizer, VisualPart

__all__ = [
    "ClipModel",
    "ImageSpec",
    "LoadRequest",
    "PromptState",
    "Suspect",
    "TextPart",
    "Tokenizer",
    "VisualPart",
]
