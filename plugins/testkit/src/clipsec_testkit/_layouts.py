"""Toy deliveries in the layouts that first-party loaders read, for loaders that read the same."""

from __future__ import annotations

import json
from pathlib import Path

from clipsec.errors import UsageError
from clipsec_testkit._toys import build_toys
from clipsec_testkit._training import seeded

LAYOUTS = ("open_clip", "prompt-tuned", "transformers")


def write_layout(layout: str, folder: Path) -> str:
    """Write a toy delivery below `folder`; returns the spec that loads it.

    Raises `UsageError` for an unknown layout.
    """
    if layout == "open_clip":
        return str(build_toys()["clean"].save(folder / "delivery"))
    if layout == "prompt-tuned":
        return str(build_toys()["clean-prompt"].save(folder / "delivery"))
    if layout == "transformers":
        return str(_write_transformers(folder / "delivery"))
    raise UsageError(f"there is no toy in the layout {layout!r}", remedy=f"Layouts: {', '.join(LAYOUTS)}.")


def _write_transformers(folder: Path) -> Path:
    """An untrained CLIPModel with a tokenizer of a few words, as `save_pretrained` writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    words = [
        *special,
        *[
            "a",
            "an",
            "photo",
            "of",
            "the",
            "dog",
            "red",
            "car",
            "aerial",
            "photograph",
            "forest",
            "inside",
            "kitchen",
            ".",
        ],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    block = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 24, "pad_token_id": 0}
    text |= {"bos_token_id": 2, "eos_token_id": 3}
    with seeded(0):
        config = CLIPConfig(
            text_config={**block, **text},
            vision_config={**block, "image_size": 32, "patch_size": 16},
            projection_dim=24,
        )
        CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    preprocess = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_normalize": True,
    }
    preprocess |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess), encoding="utf-8")
    return folder
