"""Writing learned prompts as their authors' trainer does, with what a delivery must say beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipsec.models._delivery import DELIVERY_NAME, Delivery, check_class_names
from clipsec.models._prompt_tensors import learner_state
from clipsec.models._prompt_tuned import LEARNER_FOLDER
from clipsec.models._types import ClipModel, PromptState
from clipsec.store import atomic_write, whole_folder


def save_prompts(
    folder: Path | str,
    prompts: PromptState,
    *,
    base: str,
    epoch: int,
    clip: ClipModel | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `prompt_learner/model.pth.tar-EPOCH`, Dassl's `checkpoint` file and `clipsec.json`; returns the
    folder.

    `base` is the spec that loads the base again; a path counts from the delivery. With `clip`, the base
    itself, its digest, activation and logit scale are recorded, so that another base is noticed, and the
    tokens of the class names are saved as the authors do. `extra` is any further JSON for people to read.

    The folder must be missing or empty. Everything is written beside it and renamed into place: it is
    complete or not there. Raises `StoreError`, or `MalformedModelError` for unusable class names.
    """
    folder = Path(folder).absolute()
    names = check_class_names(prompts.class_names)
    file = f"model.pth.tar-{int(epoch)}"
    delivery = Delivery(
        method=prompts.method,
        class_names=names,
        class_token_position=prompts.class_token_position,
        weights=f"{LEARNER_FOLDER}/{file}",
        base=base,
        base_digest="" if clip is None else clip.digest,
        base_activation="" if clip is None else clip.activation,
        logit_scale=None if clip is None else clip.logit_scale,
        extra=dict(extra or {}),
    )
    content = io.BytesIO()
    torch.save({"state_dict": learner_state(prompts, clip), "epoch": int(epoch)}, content)
    with whole_folder(folder) as temporary:
        atomic_write(temporary / LEARNER_FOLDER / file, content.getvalue())
        atomic_write(temporary / LEARNER_FOLDER / "checkpoint", f"{file}\n".encode())
        atomic_write(temporary / DELIVERY_NAME, delivery.to_json())
    return folder
