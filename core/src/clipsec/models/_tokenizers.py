"""Tokenizers: CLIP's own, and those that lie in a delivery as data."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipsec.errors import MalformedModelError, ModelError, UnsafeModelError
from clipsec.models._files import open_regular, read_json, shown_path
from clipsec_registry import printable

CLIP_VOCABULARY = 49_408
TOKENIZER_LIMIT = 64 * 2**20
"""Bytes. The largest published one (256,000 words) has 34 MB."""
_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_CONFIGURATIONS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


@lru_cache(maxsize=1)
def _clip_bpe() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class ClipTokenizer:
    """CLIP's byte-pair tokenizer (open_clip's, with its shipped vocabulary): texts -> ids `[n,
    context_length]`.

    Start 49406, end 49407, padded with 0; long texts are cut and keep their end token.
    """

    fingerprint = "clip"

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids: Tensor = _clip_bpe()(list(texts), context_length=self.context_length)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; bytes that are no text become the replacement character."""
        text: str = _clip_bpe().decode(list(ids))
        return text


class DeliveredTokenizer:
    """A transformers tokenizer from the delivery's own folder, without its code: texts -> ids `[n,
    context_length]`.

    Raises `UnsafeModelError` for a tokenizer that brings code, `MalformedModelError` when it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        context_length: int,
        *,
        clean: str | None = None,
        strip_sep_token: bool = False,
        mode: str = "",
    ) -> None:
        from transformers import AutoTokenizer

        self.context_length = context_length
        self.folder = folder
        self.files = tokenizer_files(folder)
        self.fingerprint = hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()
        self._strip_sep_token = strip_sep_token
        refuse_code(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tokenizer: Any = AutoTokenizer.from_pretrained(
                    str(folder.resolve()), trust_remote_code=False, local_files_only=True
                )
        except Exception as error:
            raise MalformedModelError(
                f"the tokenizer in {shown_path(folder)} cannot be read: {printable(error, 120)}",
                remedy="Ask the vendor for the tokenizer files (tokenizer.json) that belong to the model.",
            ) from error
        self._call = self._plain if mode != "clips" else self._class_last
        self._clean = _cleaner(clean)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        return self._call([self._clean(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def _plain(self, texts: list[str]) -> Tensor:
        # SigLIP is read at the last position, so its padding is part of the input; CLIP's does not matter.
        ids: Tensor = self._tokenizer(
            texts, return_tensors="pt", max_length=self.context_length, padding="max_length", truncation=True
        ).input_ids
        if self._strip_sep_token:
            ids = torch.where(ids == self._tokenizer.sep_token_id, torch.zeros_like(ids), ids)
        return ids

    def _class_last(self, texts: list[str]) -> Tensor:
        """CLIPS: the class token stands behind the padding (open_clip's tokenizer mode `clips`)."""
        rows = torch.full((len(texts), self.context_length), self._tokenizer.pad_token_id, dtype=torch.int64)
        for row, text in zip(rows, texts):
            ids = self._tokenizer(text, add_special_tokens=False).input_ids[: self.context_length - 3]
            ids = [self._tokenizer.bos_token_id, *ids, self._tokenizer.eos_token_id]
            row[: len(ids)] = torch.tensor(ids)
            row[-1] = self._tokenizer.cls_token_id
        return rows


def _cleaner(name: str | None) -> Any:
    if name is None:
        return lambda text: text
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn(name)


def tokenizer_files(folder: Path) -> dict[str, str]:
    """Name and sha256 of the tokenizer files in a folder; empty when there is no vocabulary among them."""
    present = {name: folder / name for name in _FILES if os.path.lexists(folder / name)}
    if not any(
        name in present for name in ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
    ):
        return {}
    digests = {}
    for name, path in present.items():
        with open_regular(path, max_bytes=TOKENIZER_LIMIT) as opened:
            digests[name] = opened.sha256()
    return digests


def refuse_code(folder: Path) -> None:
    """Raise `UnsafeModelError` when a configuration in the folder names Python code of its own
    (`auto_map`)."""
    for name in _CONFIGURATIONS:
        if not os.path.lexists(folder / name):
            continue
        config = read_json(folder / name, limit=TOKENIZER_LIMIT)
        if config.get("auto_map"):
            raise UnsafeModelError(
                f"{shown_path(folder / name)} wants Python code of the delivery to be run (auto_map)",
                remedy="Ask the vendor for the model in a class that transformers itself has, and remove "
                "auto_map.",
            )


def try_tokenizer(folder: Path, context_length: int, vocabulary: int, **options: Any) -> tuple[Any, str]:
    """A tokenizer from the folder and no note, or None and why texts cannot be used."""
    try:
        tokenizer = DeliveredTokenizer(folder, context_length, **options)
        highest = int(tokenizer(["a photo of a cat."]).max())
    except UnsafeModelError:
        raise
    except ModelError as error:
        return None, error.message
    except Exception as error:  # a tokenizer may load and still be unable to pad or cut
        return None, f"the delivered tokenizer does not work: {printable(error, 120)}"
    if highest >= vocabulary:
        return None, f"the delivered tokenizer gives the id {highest}, the text tower knows {vocabulary}"
    return tokenizer, ""
