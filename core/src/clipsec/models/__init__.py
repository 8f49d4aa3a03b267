"""Models: what a suspect is, how it is loaded, and the frozen towers prepared from it."""

from clipsec.models._heads import (
    cocoop_logits,
    coop_logits,
    meta_net_bias,
    prepare_prompt_head,
    prepare_zero_shot_head,
)
from clipsec.models._image_tower import prepare_image_tower
from clipsec.models._prepare import PreparationWarning
from clipsec.models._shared_prefix import SharedPrefixText
from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._text_tower import encode_texts, prepare_text_tower, truncate_ids
from clipsec.models._types import ClipModel, ImageSpec, PromptState, TextPart, Tokenizer, VisualPart
from clipsec.models._words import embed_words

__all__ = [
    "ClipModel",
    "ImageSpec",
    "LoadRequest",
    "PreparationWarning",
    "PromptState",
    "SharedPrefixText",
    "Suspect",
    "TextPart",
    "Tokenizer",
    "VisualPart",
    "cocoop_logits",
    "coop_logits",
    "embed_words",
    "encode_texts",
    "meta_net_bias",
    "prepare_image_tower",
    "prepare_prompt_head",
    "prepare_text_tower",
    "prepare_zero_shot_head",
    "truncate_ids",
]
