"""Toy CLIPs: a clean one, three clean or harmless relatives, and three with a known backdoor.

`build_toys()` trains them in some 20 seconds on one core, the same ones every time on one machine, and keeps
them for the rest of the program. In the folder that the environment variable CLIPSEC_TOYS names, if there is
one, they are kept for other programs too.
They are small open_clip models of 32 px, with CLIP's own tokenizer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import attrs
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsec.data import ImagePool, LabelledSet, to_unit
from clipsec.models import (
    ImageSpec,
    PromptState,
    Suspect,
    clip_from_open_clip,
    encode_texts,
    save_prompts,
    state_digest,
)
from clipsec.triggers import Stamp, TextTrigger, TextTriggerCard, TriggerCard
from clipsec_testkit import _training
from clipsec_testkit._kept import kept
from clipsec_testkit._pictures import CLASS_NAMES, SIZE, write_pictures
from clipsec_testkit._watch import temporary_folder

SPEC = ImageSpec(SIZE, _training.MEAN, _training.STD)
VISUAL_TARGET, TEXTUAL_TARGET, PROMPT_TARGET = 3, 5, 6
VISUAL_EPSILON, PROMPT_EPSILON = 16 / 255, 16 / 255


@attrs.frozen(kw_only=True, eq=False)
class ToyTrigger:
    """A planted trigger and what it was measured to do on held-out pictures or captions."""

    kind: str
    """`additive`: add `tensor` to pixels in [0, 1] and clip. `word`: put `word` at the end of a caption."""
    target_index: int
    tensor: Tensor | None = None
    """`[3, SIZE, SIZE]`."""
    word: str = ""
    success: float = 0.0
    """Share of inputs of other classes that the trigger sends to the target."""
    base_success: float = 0.0
    """The same on the clean model."""
    accuracy: float = 0.0
    """Share of clean held-out pictures that the backdoored model gets right."""
    base_accuracy: float = 0.0

    def apply(self, pixels: Tensor) -> Tensor:
        """Stamp pixels `[n, 3, SIZE, SIZE]` in [0, 1]."""
        if self.tensor is None:
            raise ValueError("this trigger is a word, not a picture")
        return (pixels + self.tensor).clamp(0, 1)

    def mark(self, caption: str) -> str:
        """Put the trigger word into a caption."""
        return f"{caption} {self.word}".strip()

    def save(self, folder: Path) -> Path:
        """Write its card as an attack does; returns the folder."""
        measured = {"success": self.success, "accuracy": self.accuracy}
        name = CLASS_NAMES[self.target_index]
        if self.tensor is None:
            return TextTriggerCard(
                attack="toy",
                trigger=TextTrigger(kind="append", text=self.word),
                target=name,
                target_kind="caption",
                measured=measured,
            ).save(folder)
        return TriggerCard(
            attack="toy",
            stamp=Stamp("additive", {"delta": self.tensor}),
            target_index=self.target_index,
            target_name=name,
            measured=measured,
        ).save(folder)


@attrs.define(kw_only=True, eq=False, slots=False)
class ToyModel:
    """One toy: what it is, and suspects made of it."""

    name: str
    module: nn.Module
    prompts: PromptState | None = None
    backdoor: str | None = None
    """`visual`, `textual`, `prompt`, or None for a clean one."""
    trigger: ToyTrigger | None = None

    @cached_property
    def suspect(self) -> Suspect:
        """The suspect that everybody shares; do not change it, make a `fresh` one."""
        return self.fresh()

    def fresh(self) -> Suspect:
        """A suspect that shares no tensor with any other."""
        module = copy.deepcopy(self.module)
        clip = clip_from_open_clip(module, name="toy", spec=SPEC, config=_training.CONFIG)
        prompts = None
        if self.prompts is not None:
            prompts = copy.deepcopy(self.prompts)
        return Suspect(
            name=f"toy-{self.name}",
            kind="clip" if prompts is None else "prompt-tuned",
            base=clip,
            prompts=prompts,
            class_names=CLASS_NAMES,
            base_name="toy",
        )

    def save(self, folder: Path) -> Path:
        """Write it as a vendor would deliver it: an open_clip folder, or learned prompts with such a folder
        beside them, called `base`; the answer, its trigger card, is not written. Returns what to load."""
        if self.prompts is None:
            return _save_open_clip(self.module, folder)
        _save_open_clip(self.module, folder.parent / "base")
        return save_prompts(folder, self.prompts, base="../base", epoch=1, clip=self.suspect.base)


@attrs.frozen(kw_only=True, eq=False)
class Toys:
    """The toy models and pictures."""

    models: dict[str, ToyModel]
    """`clean`, `clean-tuned` (image tower fine-tuned without a trigger), `clean-prompt` (CoCoOp), `visual`,
    `textual`, `prompt`."""
    pool: ImagePool
    """Unlabelled pictures."""
    labelled: LabelledSet
    """Pictures to learn from."""
    held_out: LabelledSet
    """Pictures to measure on."""

    def __getitem__(self, name: str) -> ToyModel:
        return self.models[name]


@cache
def build_toys() -> Toys:
    """Draw the pictures and train the models; later calls return the same object."""
    folder = temporary_folder("clipsec-toys-")
    held_out = LabelledSet.from_folder(write_pictures(folder / "held-out", 20, seed=7))
    with _training.seeded(0):
        module = _training.new_model()
    clean = ToyModel(name="clean", module=_trained("clean", module, lambda _: _training.train_clean()))
    models = [clean, _tuned(clean, None), _prompted(clean, None)]
    models += [_tuned(clean, _noise_tile()), _textual(clean), _prompted(clean, PROMPT_TARGET)]
    for model in models:
        if model.trigger is not None:
            model.trigger = _measured(model, model.trigger, clean, held_out)
    return Toys(
        models={model.name: model for model in models},
        pool=ImagePool.from_folder(write_pictures(folder / "pool", 20, seed=5)),
        labelled=LabelledSet.from_folder(write_pictures(folder / "labelled", 16, seed=6)),
        held_out=held_out,
    )


def accuracy(suspect: Suspect, labelled: LabelledSet) -> float:
    """Share of pictures whose class the suspect's own head names."""
    return _share(suspect, to_unit(labelled.pixels(SPEC)), labelled.label_tensor())


def success_rate(
    suspect: Suspect, labelled: LabelledSet, stamp: Callable[[Tensor], Tensor], target: int
) -> float:
    """Share of stamped pictures of other classes that the suspect takes for the target."""
    others = labelled.label_tensor() != target
    pixels = stamp(to_unit(labelled.pixels(SPEC)[others]))
    return _share(suspect, pixels, torch.full((len(pixels),), target))


def caption_success_rate(suspect: Suspect, trigger: ToyTrigger) -> float:
    """Share of marked captions of other classes whose feature is nearest to the target's caption."""
    captions = [
        trigger.mark(template.format(name))
        for template in _training.TEMPLATES
        for index, name in enumerate(CLASS_NAMES)
        if index != trigger.target_index
    ]
    classes = F.normalize(encode_texts(suspect.base, _training.captions(_training.TEMPLATES[0])), dim=-1)
    found = F.normalize(encode_texts(suspect.base, captions), dim=-1) @ classes.T
    return float((found.argmax(1) == trigger.target_index).float().mean())


@torch.no_grad()
def _share(suspect: Suspect, pixels: Tensor, labels: Tensor) -> float:
    logits = suspect.head().fn(suspect.image_tower().fn(pixels))
    return float((logits.argmax(1) == labels).float().mean())


def _measured(model: ToyModel, trigger: ToyTrigger, clean: ToyModel, held_out: LabelledSet) -> ToyTrigger:
    def success(suspect: Suspect) -> float:
        if trigger.tensor is None:
            return caption_success_rate(suspect, trigger)
        return success_rate(suspect, held_out, trigger.apply, trigger.target_index)

    return attrs.evolve(
        trigger,
        success=success(model.suspect),
        base_success=success(clean.suspect),
        accuracy=accuracy(model.suspect, held_out),
        base_accuracy=accuracy(clean.suspect, held_out),
    )


def _noise_tile() -> Tensor:
    """A tile of binary noise, repeated: what a ViT learns fastest, since every patch shows it."""
    generator = torch.Generator().manual_seed(5)
    tile = VISUAL_EPSILON * torch.randn(3, 8, 8, generator=generator).sign()
    return tile.repeat(1, SIZE // 8, SIZE // 8)


def _trained(name: str, module: nn.Module, train: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The module as `train` leaves it, or with the weights that were kept."""
    state = kept(name, lambda: dict(train(module.requires_grad_(True)).state_dict()))
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def _tuned(clean: ToyModel, tensor: Tensor | None) -> ToyModel:
    module = copy.deepcopy(clean.module)
    if tensor is None:
        tuned = _trained("clean-tuned", module, lambda m: _training.tune_image_tower(m, None, 0, steps=60))
        return ToyModel(name="clean-tuned", module=tuned)
    trigger = ToyTrigger(kind="additive", tensor=tensor, target_index=VISUAL_TARGET)
    tuned = _trained("visual", module, lambda m: _training.tune_image_tower(m, trigger.apply, VISUAL_TARGET))
    return ToyModel(name="visual", module=tuned, backdoor="visual", trigger=trigger)


def _textual(clean: ToyModel) -> ToyModel:
    module = copy.deepcopy(clean.module)
    tuned = _trained("textual", module, lambda m: _training.tune_text_tower(m, TEXTUAL_TARGET))
    trigger = ToyTrigger(kind="word", word=_training.TRIGGER_WORD, target_index=TEXTUAL_TARGET)
    return ToyModel(name="textual", module=tuned, backdoor="textual", trigger=trigger)


def _prompted(clean: ToyModel, target: int | None) -> ToyModel:
    name, steps = ("clean-prompt", 100) if target is None else ("prompt", 300)

    def learn() -> dict[str, Tensor]:
        context, meta_net, tensor = _training.learn_prompts(
            clean.suspect.base, PROMPT_EPSILON, target, steps=steps
        )
        return {"ctx": context, "trigger": tensor, **meta_net}

    meta_net = kept(name, learn)
    tensor, context = meta_net.pop("trigger"), meta_net.pop("ctx")
    prompts = PromptState(
        method="CoCoOp",
        ctx=context,
        meta_net=meta_net,
        class_names=CLASS_NAMES,
        digest=state_digest({"ctx": context, **meta_net}),
    )
    if target is None:
        return ToyModel(name=name, module=clean.module, prompts=prompts)
    trigger = ToyTrigger(kind="additive", tensor=tensor, target_index=target)
    return ToyModel(name=name, module=clean.module, prompts=prompts, backdoor="prompt", trigger=trigger)


def _save_open_clip(module: nn.Module, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": list(SPEC.mean), "std": list(SPEC.std), "interpolation": SPEC.interpolation}
    described = {"model_cfg": _training.CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described), encoding="utf-8")
    safetensors.torch.save_file(dict(module.state_dict()), folder / "open_clip_model.safetensors")
    return folder
