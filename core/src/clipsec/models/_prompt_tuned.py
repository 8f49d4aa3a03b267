"""Prompt-tuned deliveries: CoOp's and CoCoOp's learned tensors as their authors save them.

Layout (KaiyangZhou/CoOp on Dassl): `prompt_learner/model.pth.tar-EPOCH` or `model-best.pth.tar`, a
dictionary with `state_dict` {ctx, token_prefix, token_suffix, and for CoCoOp
meta_net.linear1/2.weight/bias}, `epoch`, `optimizer`, `scheduler`, `val_result`. The authors' loader
ignores token_prefix and token_suffix; here they are compared with the base. It says nothing about the base
and the class names: those are in `clipsec.json`, or given by the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from clipsec.errors import (
    ClipsecError,
    MalformedModelError,
    MisloadedModelError,
    ModelError,
    UnsupportedModelError,
    UsageError,
)
from clipsec.models._delivery import (
    DELIVERY_NAME,
    Delivery,
    listed_class_names,
    read_delivery,
)
from clipsec.models._files import open_regular, shown_names, shown_path
from clipsec.models._prompt_tensors import TOKENS, check_token_shapes, make_prompts
from clipsec.models._shared_prefix import tokenize_prompts
from clipsec.models._suspect import LoadRequest, Suspect
from clipsec.models._text_tower import text_weights
from clipsec.models._types import ClipModel, PromptState
from clipsec.models._weights import Weights, read_weights
from clipsec.protocols import API_VERSION
from clipsec_registry import printable

LEARNER_FOLDER = "prompt_learner"
BEST = "model-best.pth.tar"
TWIN = "model.safetensors"

_PREFIX = "prompt-tuned:"
_EPOCH = re.compile(r"model\.pth\.tar-(\d{1,9})")


class PromptTunedLoader:
    """Loads delivery folders of CoOp and CoCoOp, and `prompt-tuned:FOLDER`."""

    summary: ClassVar[str] = "prompt-tuned deliveries: CoOp and CoCoOp on any base"
    api_version: ClassVar[str] = API_VERSION
    conformance: ClassVar[Mapping[str, str]] = {"layout": "prompt-tuned"}

    def matches(self, spec: str) -> bool:
        """Whether the spec has the prefix, or names a folder with `clipsec.json` or learned prompts."""
        if spec.startswith(_PREFIX):
            return True
        folder = Path(spec)
        return os.path.isdir(folder) and (os.path.lexists(folder / DELIVERY_NAME) or bool(_found(folder)))

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        """A suspect with its base. `request` may name the base and the classes when the delivery does not.

        Raises `ModelError` with a remedy: `MalformedModelError` when tensors, class names and base do not fit
        together, `MisloadedModelError` when the base is not the one the prompts were trained on.
        """
        from clipsec.models._load import load_clip

        folder = Path(spec.removeprefix(_PREFIX))
        if not os.path.isdir(folder):
            raise ModelError(f"there is no folder {shown_path(folder)}", remedy="Check the path.")
        delivery = read_delivery(folder)
        prompts, tokens, files, notes = _read(folder, delivery, request.class_names, request.max_bytes)
        base_spec = request.base or _beside(folder, delivery.base)
        if not base_spec:
            raise ModelError(
                f"{shown_path(folder)} does not say which model its prompts were trained on",
                remedy="Name it with --base, e.g. --base open_clip:ViT-B-16-quickgelu@openai.",
            )
        base = load_clip(base_spec, request)
        _check_base(base, delivery)
        _check_fit(prompts, base)
        notes += _compare_tokens(prompts, tokens, base) + _compare_scale(delivery, base)
        return Suspect(
            name=spec,
            kind="prompt-tuned",
            base=base,
            prompts=prompts,
            class_names=prompts.class_names,
            base_name=delivery.base if not request.base else request.base,
            base_spec=_beside(Path.cwd(), base_spec),
            files={**files, **{f"base/{name}": digest for name, digest in base.files.items()}},
            notes=notes,
            device=request.device,
        )


def load_prompts(folder: Path | str, *, class_names: tuple[str, ...] | None = None) -> PromptState:
    """The learned prompts of a delivery folder, without its base.

    `class_names` stands in for, or overrides, those of the delivery. Raises like `PromptTunedLoader.load`.
    """
    folder = Path(folder)
    return _read(folder, read_delivery(folder), class_names, LoadRequest().max_bytes)[0]


def _found(folder: Path) -> list[Path]:
    """The learned prompts in a folder, the file that counts first: best, then the latest epoch, then the
    twin."""
    for place in (folder / LEARNER_FOLDER, folder):
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        epochs = sorted(
            (int(match[1]), name) for name in names if (match := _EPOCH.fullmatch(name)) is not None
        )
        found = [BEST] if BEST in names else []
        found += [name for _, name in reversed(epochs)]
        # In the folder's own root, model.safetensors is as likely some other model's.
        found += [TWIN] if TWIN in names and (found or place.name == LEARNER_FOLDER) else []
        if found:
            return [place / name for name in found]
    return []


def _read(
    folder: Path, delivery: Delivery, given: tuple[str, ...] | None, max_bytes: int
) -> tuple[PromptState, dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    found = _found(folder)
    if delivery.weights:
        named = folder / os.path.normpath(delivery.weights)
        if os.path.isabs(delivery.weights) or not named.resolve().is_relative_to(folder.resolve()):
            raise MalformedModelError(
                f"{DELIVERY_NAME} refers to weights outside the delivery: {printable(delivery.weights, 80)}",
                remedy="Ask the vendor for a delivery in one folder.",
            )
        found = [named, *(path for path in found if path != named)]
    if not found:
        raise ModelError(
            f"{shown_path(folder)} holds no learned prompts ({LEARNER_FOLDER}/{BEST} or model.pth.tar-EPOCH)",
            remedy="Name the folder that holds prompt_learner/.",
        )
    weights, notes = _read_one_of(found, max_bytes)
    tensors = _without_prefix(weights.tensors)
    names = given or delivery.class_names or listed_class_names(folder)
    if not names:
        raise ModelError(
            f"{shown_path(folder)} does not name its classes",
            remedy="Name them in the order of training: --classes FILE, one a line.",
        )
    if given and delivery.class_names and given != delivery.class_names:
        notes += ("The class names are yours; the delivery names others.",)
    prompts = make_prompts(
        tensors, names, method=delivery.method, class_token_position=delivery.class_token_position
    )
    tokens = {name: tensors[name] for name in TOKENS if name in tensors}
    check_token_shapes(tokens, prompts)
    files = {found[0].relative_to(folder).as_posix(): digest for digest in weights.files.values()}
    if os.path.lexists(folder / DELIVERY_NAME):
        with open_regular(folder / DELIVERY_NAME) as opened:
            files[DELIVERY_NAME] = opened.sha256()
    return prompts, tokens, files, notes


def _read_one_of(found: list[Path], max_bytes: int) -> tuple[Weights, tuple[str, ...]]:
    first = read_weights(found[0], max_bytes=max_bytes)
    twins = [path for path in found if path.suffix == ".safetensors" and path != found[0]]
    if twins:
        # Two forms of one file must be one model, or an audit of the one says nothing about the other.
        second = read_weights(twins[0], max_bytes=max_bytes)
        if not _same(first.tensors, second.tensors):
            raise MalformedModelError(
                f"{found[0].name} and {twins[0].name} hold different prompts",
                remedy="Ask the vendor which one is delivered, and for a delivery without the other.",
            )
    others = [path.name for path in found[1:] if path not in twins]
    if others:
        return first, (f"{found[0].name} was audited; {shown_names(others)} lie beside it and were not.",)
    return first, ()


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    names = set(first) - set(TOKENS)
    return names == set(second) - set(TOKENS) and all(
        first[name].shape == second[name].shape and torch.equal(first[name].float(), second[name].float())
        for name in names
    )


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{LEARNER_FOLDER}."
    if any(name == f"{prefix}ctx" for name in tensors):
        return {
            name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
        }
    return dict(tensors)


def _beside(folder: Path, spec: str) -> str:
    """A base that is a path counts from the delivery; anything else is as it stands."""
    for prefix in ("", "local-dir:", "open_clip:", "transformers:"):
        if spec.startswith(prefix) and spec != prefix:
            path = spec.removeprefix(prefix)
            head, at, place = path.rpartition("@")
            if not os.path.isabs(path) and os.path.exists(folder / path):
                return prefix + str(folder / path)
            if prefix and at and not os.path.isabs(place) and os.path.isfile(folder / place):
                return f"{prefix}{head}@{folder / place}"
    return spec


def _check_base(base: ClipModel, delivery: Delivery) -> None:
    if base.visual is None or base.text is None:
        lacking = "image" if base.visual is None else "text"
        raise UnsupportedModelError(
            f"the base {printable(base.name, 80)} has no usable {lacking} tower; prompts need both towers",
            remedy=" ".join(base.notes) or "Name the whole CLIP with --base.",
        )
    if delivery.base_activation and delivery.base_activation != base.activation:
        raise MisloadedModelError(
            f"the prompts were trained on a base with {printable(delivery.base_activation, 40)}, "
            f"{printable(base.name, 80)} was loaded with {base.activation}",
            remedy="Name the architecture with the right activation (open_clip has -quickgelu variants) "
            "with --base.",
        )
    if delivery.base_digest and delivery.base_digest != base.digest:
        raise MisloadedModelError(
            f"{printable(base.name, 80)} is not the model that the prompts were trained on: its digest is "
            f"{base.digest[:12]}, the delivery records {printable(delivery.base_digest[:12], 12)}",
            remedy="Name the base that the vendor used with --base, or ask the vendor for it.",
        )


def _check_fit(prompts: PromptState, base: ClipModel) -> None:
    assert base.text is not None
    assert base.visual is not None
    width, embed = prompts.ctx.shape[-1], base.visual.embed_dim
    if width != base.text.width:
        raise MalformedModelError(
            f"the context vectors have width {width}, the text tower of {printable(base.name, 80)} "
            f"{base.text.width}",
            remedy="Name the base that the prompts were trained on with --base.",
        )
    if prompts.meta_net is not None and prompts.meta_net["linear1.weight"].shape[1] != embed:
        raise MalformedModelError(
            f"the meta-net takes features of {prompts.meta_net['linear1.weight'].shape[1]} numbers, the "
            "image "
            f"tower of {printable(base.name, 80)} gives {embed}",
            remedy="Name the base that the prompts were trained on with --base.",
        )
    if prompts.ctx.shape[-2] + 4 > base.text.context_length:  # start, one token of a name, ".", end
        raise MalformedModelError(
            f"{prompts.ctx.shape[-2]} context vectors do not fit into the {base.text.context_length} tokens "
            f"of {printable(base.name, 80)}",
            remedy="Name the base that the prompts were trained on with --base.",
        )
    try:
        tokenize_prompts(base, prompts.class_names, prompts.ctx.shape[-2])
    except UsageError as error:
        raise MalformedModelError(error.message, remedy=error.remedy) from error


@torch.no_grad()
def _compare_tokens(prompts: PromptState, tokens: Mapping[str, Tensor], base: ClipModel) -> tuple[str, ...]:
    """A note when the tokens that were saved with the prompts are not those of these names on this base."""
    if not tokens:
        return ()
    try:
        ids = tokenize_prompts(base, prompts.class_names, prompts.ctx.shape[-2]).ids
        weights = text_weights(base)
    except ClipsecError:
        return ()
    if weights is None:
        return ()
    start = 1 + prompts.ctx.shape[-2]
    for name, columns in (("token_prefix", ids[:, :1]), ("token_suffix", ids[:, start:])):
        saved = tokens.get(name)
        if saved is None:
            continue
        length = min(saved.shape[1], columns.shape[1])
        for index, (row, given) in enumerate(zip(columns[:, :length], saved[:, :length])):
            expected = weights.embed(row)
            # Half precision keeps 11 bits; embeddings of CLIP are about 0.01.
            if not torch.allclose(given.float(), expected, rtol=2e-3, atol=2e-4):
                return (
                    f"The {name} saved with the prompts is not that of "
                    f"{printable(prompts.class_names[index], 60)!r} "
                    "on this base: the class names, their order or the base are not those of the training. "
                    "As in the authors' loader, the names count and the saved tokens do not.",
                )
    return ()


def _compare_scale(delivery: Delivery, base: ClipModel) -> tuple[str, ...]:
    told = delivery.logit_scale
    if told is None or abs(told - base.logit_scale) <= 0.01 * base.logit_scale:
        return ()
    return (
        f"The delivery records the logit scale {told:.4g}, the base has {base.logit_scale:.4g}, which is "
        "used.",
    )
