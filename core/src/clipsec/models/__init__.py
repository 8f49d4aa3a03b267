"""Models: what a suspect is, how it is loaded, and the frozen towers prepared from it."""

from clipsec.models._attention_map import last_attention
from clipsec.models._contrastive import clip_loss
from clipsec.models._digest import state_digest
from clipsec.models._embedding_tower import (
    decode_ids,
    embed_ids,
    end_positions,
    is_causal,
    pad_with_end,
    pool_hidden_states,
    prepare_embedding_tower,
    same_text_tower,
    token_table,
)
from clipsec.models._gate import sanity_gate
from clipsec.models._heads import (
    ZERO_SHOT_TEMPLATE,
    cocoop_logits,
    coop_logits,
    meta_net_bias,
    prepare_prompt_head,
    prepare_zero_shot_head,
)
from clipsec.models._image_tower import prepare_image_tower
from clipsec.models._insert import insert_tokens, text_ends
from clipsec.models._load import load_clip, load_suspect
from clipsec.models._open_clip import OpenClipLoader
from clipsec.models._open_clip_model import clip_from_open_clip
from clipsec.models._prepare import PreparationWarning
from clipsec.models._prompt_learner import PromptLearner
from clipsec.models._prompt_tuned import PromptTunedLoader, load_prompts
from clipsec.models._save_prompts import save_prompts
from clipsec.models._shared_prefix import SharedPrefixText
from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._template import check_template
from clipsec.models._text_tower import encode_texts, prepare_text_tower, truncate_ids
from clipsec.models._tokenizers import ClipTokenizer
from clipsec.models._trainable import TrainableClip, with_gradients
from clipsec.models._transformers import TransformersLoader, clip_from_transformers
from clipsec.models._types import ClipModel, ImageSpec, PromptState, TextPart, Tokenizer, VisualPart
from clipsec.models._words import embed_words
from clipsec.models._write_delivery import write_delivery

__all__ = [
    "ZERO_SHOT_TEMPLATE",
    "ClipModel",
    "ClipTokenizer",
    "ImageSpec",
    "LoadRequest",
    "OpenClipLoader",
    "PreparationWarning",
    "PromptLearner",
    "PromptState",
    "PromptTunedLoader",
    "SharedPrefixText",
    "Suspect",
    "TextPart",
    "Tokenizer",
    "TrainableClip",
    "TransformersLoader",
    "VisualPart",
    "check_template",
    "clip_from_open_clip",
    "clip_from_transformers",
    "clip_loss",
    "cocoop_logits",
    "coop_logits",
    "decode_ids",
    "embed_ids",
    "embed_words",
    "encode_texts",
    "end_positions",
    "insert_tokens",
    "is_causal",
    "last_attention",
    "load_clip",
    "load_prompts",
    "load_suspect",
    "meta_net_bias",
    "pad_with_end",
    "pool_hidden_states",
    "prepare_embedding_tower",
    "prepare_image_tower",
    "prepare_prompt_head",
    "prepare_text_tower",
    "prepare_zero_shot_head",
    "same_text_tower",
    "sanity_gate",
    "save_prompts",
    "state_digest",
    "text_ends",
    "token_table",
    "truncate_ids",
    "with_gradients",
    "write_delivery",
]
