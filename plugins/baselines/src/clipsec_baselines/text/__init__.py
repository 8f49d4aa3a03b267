"""Attacks on text towers, and benign fine-tunes as their controls."""

from clipsec_baselines.text._adaptive import TextAdaptive
from clipsec_baselines.text._attacks import ImageOnText, TextAttribute, TextTarget
from clipsec_baselines.text._benign import TextDistill, TextFinetune, TextLora, TextRemove
from clipsec_baselines.text._captions import Captions, attribute_pair, split_captions
from clipsec_baselines.text._hiding import assimilation, text_mask
from clipsec_baselines.text._measure import retrieval_success
from clipsec_baselines.text._options import (
    AdaptiveTextOptions,
    AttributeOptions,
    FinetuneOptions,
    ImageOnTextOptions,
    LoraOptions,
    RemoveOptions,
    SeveralOptions,
    TextOptions,
    TextTargetOptions,
)
from clipsec_baselines.text._several import TextSeveral
from clipsec_baselines.text._student import Student, text_student
from clipsec_baselines.text._training import Poisoned, distil, flat_similarity

__all__ = [
    "AdaptiveTextOptions",
    "AttributeOptions",
    "Captions",
    "FinetuneOptions",
    "ImageOnText",
    "ImageOnTextOptions",
    "LoraOptions",
    "Poisoned",
    "RemoveOptions",
    "SeveralOptions",
    "Student",
    "TextAdaptive",
    "TextAttribute",
    "TextDistill",
    "TextFinetune",
    "TextLora",
    "TextOptions",
    "TextRemove",
    "TextSeveral",
    "TextTarget",
    "TextTargetOptions",
    "assimilation",
    "attribute_pair",
    "distil",
    "flat_similarity",
    "retrieval_success",
    "split_captions",
    "text_mask",
    "text_student",
]
