"""A copy of a CLIP, or of a text tower alone, that may be trained, and written as a delivery."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn

from clipsec.errors import NotApplicableError, StoreError, UnsupportedModelError
from clipsec.models import _image_tower, _open_clip, _text_tower, _transformers
from clipsec.models._prepare_cnn import Normalise
from clipsec.models._text_weights import read_text_weights
from clipsec.models._tokenizers import ClipTokenizer, DeliveredTokenizer
from clipsec.models._types import ClipModel, ImageSpec, TextPart
from clipsec.store import atomic_write

_RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}
_VISUAL = ("vision", "visual")
_CHUNK = 16
"""Pictures a call: what CNNs are fastest with, see `_image_tower.CNN_BATCH_ON_CPU`."""


@attrs.frozen(eq=False)
class TrainableClip:
    """The towers of a model as their library built them, copied, with gradients for their weights.

    They stay in eval mode: running statistics of batch norms do not move, and nothing is dropped. All weights
    are frozen at first; train some inside of `with_gradients`. The logit scale is not among them.
    """

    clip: ClipModel
    """Its modules are copies; its digests are still those of the original."""

    @classmethod
    def copy_of(cls, clip: ClipModel, *, both: bool = True) -> TrainableClip:
        """Copy a model. Raises `NotApplicableError` when it has no two towers in one space; without `both`
        only when it has no text tower."""
        visual, text = clip.visual, clip.text
        if both and (visual is None or text is None or visual.embed_dim != text.embed_dim):
            raise NotApplicableError(
                f"{clip.name} has no image tower in the space of its texts",
                remedy="Take a model with both towers.",
            )
        text = _text_tower.text_part(clip)
        # Copied together, since the two halves may be one module.
        modules = copy.deepcopy((None if visual is None else visual.module, text.module))
        if visual is not None and modules[0] is not None:
            visual = attrs.evolve(visual, module=modules[0])
        return cls(attrs.evolve(clip, visual=visual, text=attrs.evolve(text, module=modules[1])))

    @property
    def spec(self) -> ImageSpec:
        """What pictures the image tower takes."""
        return _image_tower.image_part(self.clip).spec

    def image_parameters(self) -> dict[str, nn.Parameter]:
        """The image tower's weights, projection included, by their names in the model's file."""
        part = _image_tower.image_part(self.clip)
        named = dict(part.module.named_parameters())
        if part.library == "open_clip":
            return {f"visual.{name}": weight for name, weight in named.items()}
        return {name: weight for name, weight in named.items() if name.startswith(_VISUAL)}

    def text_parameters(self) -> dict[str, nn.Parameter]:
        """The text tower's weights, embeddings and projection included, by their names in the model's
        file."""
        part = _text_tower.text_part(self.clip)
        named = dict(part.module.named_parameters())
        if _apart(part):
            return {f"text.{name}": weight for name, weight in named.items()}
        return {name: weight for name, weight in named.items() if not name.startswith((*_VISUAL, "logit_"))}

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] `[n, 3, size, size]` -> features `[n, E]`, not normalised, with a graph."""
        part = _image_tower.image_part(self.clip)
        return _image_tower.stock_features(part.module, Normalise(part.spec.mean, part.spec.std)(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> features `[n, E]`, not normalised, with a graph."""
        part = _text_tower.text_part(self.clip)
        return _text_tower.stock_features(part.module, part.tokenizer(texts))

    def encode_tokens(
        self, ids: Tensor, *, vectors: Tensor | None = None, at: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token ids `[n, context]` -> hidden states after the final norm `[n, context, width]` and features
        `[n, E]`, not normalised, with a graph.

        With `vectors [m, width]` those enter the first block in place of what is at the `m` positions that
        `at [n, context]` says, as AMDET inserts them: without a position. Raises `UnsupportedModelError` for
        a tower whose final norm or embeddings cannot be told.
        """
        module = _text_tower.text_part(self.clip).module
        hidden: list[Tensor] = []
        hooks = [
            _named(module, "final_layer_norm", "ln_final").register_forward_hook(
                lambda _, given, found: hidden.append(found)
            )
        ]
        if vectors is not None and at is not None:
            positions = read_text_weights(module).positional_embedding.detach()
            # The tower adds a position to whatever the table gives.
            put = vectors - positions[at.nonzero()[:, 1]]
            hooks.append(
                _named(module, "token_embedding").register_forward_hook(
                    lambda _, given, found: found.masked_scatter(at[..., None], put.to(found))
                )
            )
        try:
            features = _text_tower.stock_features(module, ids)
        finally:
            for hook in hooks:
                hook.remove()
        return hidden[-1], features

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """uint8 pixels `[n, 3, size, size]`, as a labelled set has them -> features `[n, E]`, without a graph
        and in chunks: of the image tower as it is now, prepared once a call."""
        encode = _image_tower.prepare_image_tower(self.clip, torch.float32, "cpu").fn
        return torch.cat([encode(chunk.float() / 255) for chunk in pixels.split(_CHUNK)])

    def save(self, folder: Path | str) -> Path:
        """Write the model as its library lays it out: what `load_suspect(folder)` loads; returns the folder.

        open_clip: `open_clip_config.json` and `open_clip_model.safetensors`. transformers: `config.json`,
        `preprocessor_config.json` and `model.safetensors`. A tokenizer that was delivered comes along.

        Raises `UnsupportedModelError` when it is not known how to build the model or its tokenizer again,
        `StoreError` when the folder cannot be written.
        """
        folder, clip = Path(folder), self.clip
        text = _text_tower.text_part(clip)
        tokenizer = text.tokenizer
        if not isinstance(tokenizer, ClipTokenizer | DeliveredTokenizer):
            raise UnsupportedModelError(
                f"the tokenizer of {clip.name} cannot be written", remedy="Load the model from its folder."
            )
        in_open_clip = text.library == "open_clip"
        tensors, files = _open_clip_files(self) if in_open_clip else _transformers_files(self)
        weights = (_open_clip if in_open_clip else _transformers).WEIGHT_NAMES[0]
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        atomic_write(folder / weights, safetensors.torch.save(ready, metadata={"format": "pt"}))
        for name, described in files.items():
            atomic_write(folder / name, (json.dumps(described, indent=2, default=str) + "\n").encode())
        if isinstance(tokenizer, DeliveredTokenizer):
            try:
                for name in tokenizer.files:
                    shutil.copyfile(tokenizer.folder / name, folder / name)
            except OSError as error:
                raise StoreError(
                    f"the tokenizer of {clip.name} cannot be copied: {error}",
                    remedy="Load the model from its folder.",
                ) from error
        return folder


@contextmanager
def with_gradients(weights: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The weights with gradients inside of the block, frozen and without them again afterwards."""
    weights = list(weights)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield weights
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None


def _named(module: nn.Module, *names: str) -> nn.Module:
    """The only part of the text tower with one of these names."""
    found = [
        part
        for path, part in module.named_modules()
        if path.rpartition(".")[2] in names and not path.startswith(_VISUAL)
    ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"the text tower has {len(found)} parts named {' or '.join(names)}, not one",
            remedy="Use a CLIP or SigLIP text tower of open_clip or transformers.",
        )
    return found[0]


def _open_clip_files(trainable: TrainableClip) -> tuple[dict[str, Tensor], dict[str, Any]]:
    clip, spec = trainable.clip, trainable.spec
    if not clip.config:
        raise UnsupportedModelError(
            f"{clip.name} does not say how it was built",
            remedy="Load it with clipsec.models.load_suspect, or pass config to clip_from_open_clip.",
        )
    text = _text_tower.text_part(clip)
    tensors = dict(text.module.state_dict())
    if _apart(text):
        tensors = {f"text.{name}": tensor for name, tensor in tensors.items()}
        visual = _image_tower.image_part(clip).module.state_dict()
        tensors |= {f"visual.{name}": tensor for name, tensor in visual.items()}
        shape = (1,) if clip.config.get("nonscalar_logit_scale") else ()
        tensors["logit_scale"] = torch.full(shape, math.log(clip.logit_scale))
        if clip.config.get("init_logit_bias") is not None:
            tensors["logit_bias"] = torch.full(shape, clip.logit_bias)
    preprocess = {name: value for name, value in attrs.asdict(spec).items() if name != "size"}
    return tensors, {_open_clip.CONFIG_NAME: {"model_cfg": dict(clip.config), "preprocess_cfg": preprocess}}


def _apart(text: TextPart) -> bool:
    """Whether the text tower is a module of its own (open_clip's CustomTextCLIP)."""
    return text.library == "open_clip" and not hasattr(text.module, "visual")


def _transformers_files(trainable: TrainableClip) -> tuple[dict[str, Tensor], dict[str, Any]]:
    module: Any = _text_tower.text_part(trainable.clip).module
    config = {**module.config.to_dict(), "architectures": [type(module).__name__]}
    described = {_transformers.CONFIG_NAME: config}
    if trainable.clip.visual is None:
        return module.state_dict(), described
    spec = trainable.spec
    size = {"height": spec.size, "width": spec.size}
    processor = {
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": _RESAMPLING[spec.interpolation],
        "size": size if spec.resize_mode == "squash" else {"shortest_edge": spec.size},
        "crop_size": size,
    }
    return module.state_dict(), {**described, "preprocessor_config.json": processor}
