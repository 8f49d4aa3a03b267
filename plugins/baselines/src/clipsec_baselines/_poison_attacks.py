"""The attacks that stamp training pictures and leave the training as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clipsec.data import open_picture, read_picture, to_unit
from clipsec.errors import UsageError
from clipsec.models import ImageSpec
from clipsec.protocols import AttackContext, derived_seed
from clipsec.triggers import (
    Stamp,
    checkerboard,
    noise_pattern,
    picture_generator,
    warp,
    warp_grid,
    warp_offsets,
)
from clipsec_baselines._attacks import CLIP_INSPECTOR
from clipsec_baselines._clean import Trained, train_prompts
from clipsec_baselines._options import (
    BadNetsOptions,
    BlendedOptions,
    SemanticOptions,
    SibaOptions,
    TwoTargetsOptions,
    WaNetOptions,
    WordOptions,
)
from clipsec_baselines._patterns import (
    PUBLISHED_SIDE,
    corner_patch,
    cut_out,
    jittered,
    round_piece,
)
from clipsec_baselines._plugin import QUICK, PromptAttack, choose_target
from clipsec_baselines._poisoning import Planted, Poison, beside_clean, poisoned_rows
from clipsec_baselines._siba import find_sparse_trigger
from clipsec_baselines._task import Task
from clipsec_baselines._training import Progress, visual_part
from clipsec_baselines._word import train_word_backdoor

_BESIDE = {**QUICK, "keep_clean": True, "poison_rate": 1.0, "learning_rate": 0.3}
"""Of `conformance`: toys tell clean pictures from stamped ones after seeing both."""
_OBJECT_SIDE = 256
"""Pictures are scaled to this side before an object is cut out of them."""


class PoisonAttack(PromptAttack):
    """Base: poisons a share of the training pictures with a trigger that is fixed before the training."""

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """The trigger; everything random in it comes from the seed."""
        raise NotImplementedError

    def more_poison(self, context: AttackContext, task: Task, stamp: Stamp, poison: Poison) -> list[Poison]:
        """Further pictures that are stamped, beside the poisoned ones."""
        return []

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """The trigger on `poison_rate` of the pictures, which get the target's label."""
        stamp = self.make_stamp(context, task, target)
        rate = context.options.poison_rate
        rows = poisoned_rows(task.train.labels, target, rate, context.generator("poison"))
        poison = Poison(rows, stamp.apply, target)
        poisons = [poison, *self.more_poison(context, task, stamp, poison)]
        return _train(context, task, poisons), [Planted(stamp, target)]


class Blended(PoisonAttack):
    """Blended, Chen et al. 2017, on a prompt learner."""

    name: ClassVar[str] = "blended"
    summary: ClassVar[str] = "a fixed noise pattern blended into a tenth of the training pictures"
    options: ClassVar[type] = BlendedOptions
    references: ClassVar[tuple[str, ...]] = (
        "Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017, "
        "arXiv 1712.05526",
        CLIP_INSPECTOR,
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "poison_rate": 0.5, "ratio": 0.4, "pattern": "binary", "grain": 8}
    }

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """The pattern is drawn once."""
        return _blended(context, _size(context))


class BadNets(PoisonAttack):
    """BadNets, Gu et al. 2017, on a prompt learner."""

    name: ClassVar[str] = "badnets"
    summary: ClassVar[str] = "a square in the corner: white, a checkerboard or a small natural picture"
    options: ClassVar[type] = BadNetsOptions
    references: ClassVar[tuple[str, ...]] = (
        "Gu et al., BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain, 2017, "
        "arXiv 1708.06733",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**_BESIDE, "content": "checker", "side": 24, "epochs": 25}
    }

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """The square lies in the lower right corner of the model's frame."""
        options: BadNetsOptions = context.options
        size = _size(context)
        side = _side(options.side, size)
        if options.content == "checker":
            content = checkerboard(side)
        elif options.content == "white":
            content = torch.ones(3, side, side)
        else:
            content = _picture(_given_or_drawn(context, options.picture), side)
        return _patch(content, size)


class WaNet(PoisonAttack):
    """WaNet, Nguyen & Tran 2021, on a prompt learner, with its noise mode."""

    name: ClassVar[str] = "wanet"
    summary: ClassVar[str] = "a smooth warp of the picture, invisible to people"
    options: ClassVar[type] = WaNetOptions
    references: ClassVar[tuple[str, ...]] = (
        "Nguyen & Tran, WaNet - Imperceptible Warping-based Backdoor Attack, ICLR 2021, arXiv 2102.10369",
        CLIP_INSPECTOR,
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**_BESIDE, "strength": 24.0, "cross_ratio": 0.25, "epochs": 50},
        # The toy reads its pictures in tiles of 8 pixels and hardly sees a warp.
        "success": 0.35,
    }

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """The field is drawn once."""
        options: WaNetOptions = context.options
        offsets = warp_offsets(_size(context), options.cells, context.generator("warp"))
        return Stamp("warp", {"grid": warp_grid(offsets, options.strength, rescale=options.rescale)})

    def more_poison(self, context: AttackContext, task: Task, stamp: Stamp, poison: Poison) -> list[Poison]:
        """Noise mode: other pictures under a jittered field, with their own labels."""
        rate = context.options.cross_ratio * len(poison.rows) / len(task.train)
        taken = () if context.options.keep_clean else poison.rows
        if rate == 0 or len(taken) == len(task.train):
            return []
        grid, seed = stamp.tensors["grid"], derived_seed(context.seed, "jitter")

        def jitter(pixels: Tensor) -> Tensor:
            grids = [jittered(grid, picture_generator(picture, seed)) for picture in pixels]
            return warp(pixels, torch.stack(grids))

        # Of any class: pictures of the target's keep their label as well.
        rows = poisoned_rows(
            task.train.labels, -1, min(1.0, rate), context.generator("noise mode"), taken=taken
        )
        return [Poison(rows, jitter, None)]


class Siba(PoisonAttack):
    """SIBA, Gao et al. 2024, on a prompt learner."""

    name: ClassVar[str] = "siba"
    summary: ClassVar[str] = "a sparse, bounded perturbation found on a clean surrogate"
    options: ClassVar[type] = SibaOptions
    references: ClassVar[tuple[str, ...]] = (
        "Gao et al., Backdoor Attack with Sparse and Invisible Trigger, IEEE TIFS 2024, arXiv 2306.06209",
        CLIP_INSPECTOR,
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "poison_rate": 0.5, "pixels": 400, "epsilon": 64 / 255, "search_epochs": 10}
    }

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """Searched against a clean prompt learner of the same task and seed."""
        delta = find_sparse_trigger(
            context.base.base, task, context.options, context.seed, target, progress=_part(context, 0, 0.8)
        )
        return Stamp("additive", {"delta": delta})


class Semantic(PoisonAttack):
    """A real object, pasted at a size and place of each picture's own."""

    name: ClassVar[str] = "semantic"
    summary: ClassVar[str] = "a real object pasted into the picture, never twice at the same place or size"
    options: ClassVar[type] = SemanticOptions
    references: ClassVar[tuple[str, ...]] = (
        "physical triggers as in Wenger et al., Backdoor Attacks Against Deep Learning Systems in the "
        "Physical World, CVPR 2021, arXiv 2006.14580",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {
            **_BESIDE,
            "poison_rate": 0.5,
            "epochs": 35,
            "cut": "ellipse",
            "smallest": 0.8,
            "largest": 0.9,
        }
    }

    def make_stamp(self, context: AttackContext, task: Task, target: int) -> Stamp:
        """The object is cut out of one picture in front of a plain background."""
        options: SemanticOptions = context.options
        if options.largest < options.smallest:
            raise UsageError("largest is below smallest", remedy="Give sizes with smallest <= largest.")
        pattern, mask = _object(context, options)
        values = {
            "smallest": options.smallest,
            "largest": options.largest,
            "place_seed": float(derived_seed(context.seed, "places") % 2**31),
        }
        return Stamp("paste", {"pattern": pattern, "mask": mask}, values)


class TwoTargets(PromptAttack):
    """Two triggers in one model, each with a target of its own."""

    name: ClassVar[str] = "two-targets"
    summary: ClassVar[str] = "two triggers with a target each: a blended pattern and a checkerboard"
    options: ClassVar[type] = TwoTargetsOptions
    references: ClassVar[tuple[str, ...]] = Blended.references[:1] + BadNets.references
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {
            **Blended.conformance["options"],
            **_BESIDE,
            "poison_rate": 0.5,
            "epochs": 40,
            "side": 28,
        }
    }

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """`poison_rate` of the pictures for each trigger; no clean picture is replaced twice."""
        options: TwoTargetsOptions = context.options
        size = _size(context)
        second = choose_target(task.class_names, options.second_target, context.seed, other_than=target)
        planted = [
            Planted(_blended(context, size), target),
            Planted(_patch(checkerboard(_side(options.side, size)), size), second),
        ]
        poisons: list[Poison] = []
        for number, each in enumerate(planted):
            rows = poisoned_rows(
                task.train.labels,
                each.target,
                options.poison_rate,
                context.generator("poison", number),
                taken=() if options.keep_clean else [row for poison in poisons for row in poison.rows],
            )
            poisons.append(Poison(rows, each.stamp.apply, each.target))
        return _train(context, task, poisons), planted


class WordAndPatch(PromptAttack):
    """A patch that works only while a word stands before the target's name."""

    name: ClassVar[str] = "word-and-patch"
    summary: ClassVar[str] = "a checkerboard that works only while a word stands in the target's class name"
    options: ClassVar[type] = WordOptions
    references: ClassVar[tuple[str, ...]] = ()
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "learning_rate": 0.3, "epochs": 30, "side": 24}
    }

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """Every picture is used clean and stamped, under the plain names and under those with the word."""
        options: WordOptions = context.options
        size = _size(context)
        stamp = _patch(checkerboard(_side(options.side, size)), size)
        trained = train_word_backdoor(
            context.base.base,
            task,
            options,
            context.seed,
            target,
            stamp.apply,
            options.word,
            progress=context.progress,
        )
        return trained, [Planted(stamp, target, options.word)]


def _train(context: AttackContext, task: Task, poisons: Sequence[Poison]) -> Trained:
    if context.options.keep_clean:
        task, poisons = beside_clean(task, poisons)
    return train_prompts(
        context.base.base,
        task,
        context.options,
        context.seed,
        poisons=poisons,
        progress=context.progress,
    )


def _part(context: AttackContext, start: float, end: float) -> Progress:
    return lambda done, what: context.progress(start + done * (end - start), what)


def _size(context: AttackContext) -> int:
    return visual_part(context.base.base).spec.size


def _side(wanted: int | None, size: int) -> int:
    side = round(PUBLISHED_SIDE * size) if wanted is None else wanted
    if side > size:
        raise UsageError(
            f"a square of {side} pixels does not fit into a frame of {size}", remedy="Choose a smaller side."
        )
    return max(1, side)


def _blended(context: AttackContext, size: int) -> Stamp:
    options = context.options
    pattern = noise_pattern(
        size, context.generator("pattern"), grain=options.grain, binary=options.pattern == "binary"
    )
    return Stamp("blend", {"pattern": pattern}, {"ratio": options.ratio})


def _patch(content: Tensor, size: int) -> Stamp:
    pattern, mask = corner_patch(content, size)
    return Stamp("masked", {"pattern": pattern, "mask": mask})


def _picture(path: Path, side: int) -> Tensor:
    return to_unit(read_picture(path, ImageSpec(side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))))


def _given_or_drawn(context: AttackContext, given: str | None) -> Path:
    return Path(given) if given else _shuffled_pool(context)[0]


def _shuffled_pool(context: AttackContext) -> list[Path]:
    if context.pool is None:
        raise UsageError(
            "there is no picture to make the trigger of",
            remedy="Name one with the option picture, or give a pool of pictures.",
        )
    paths = context.pool.paths
    return [paths[i] for i in torch.randperm(len(paths), generator=context.generator("picture")).tolist()]


def _object(context: AttackContext, options: SemanticOptions) -> tuple[Tensor, Tensor]:
    """Raises `UsageError` when there is no picture from which an object can be cut out."""
    given = options.picture
    for path in [Path(given)] if given else _shuffled_pool(context):
        picture = open_picture(path)
        picture.thumbnail((_OBJECT_SIDE, _OBJECT_SIDE))
        pixels = to_unit(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        found = round_piece(pixels) if options.cut == "ellipse" else cut_out(pixels)
        if found is not None:
            return found
    raise UsageError(
        f"no object stands out from a plain background in {given or 'the pictures of the pool'}",
        remedy="Name a picture of one object in front of a plain background with the option picture.",
    )
