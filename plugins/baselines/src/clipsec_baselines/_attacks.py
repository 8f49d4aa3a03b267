"""The control, and the attacks that learn their trigger together with the prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from clipsec.protocols import AttackContext
from clipsec.triggers import Stamp
from clipsec_baselines._adaptive import train_adaptive_badclip
from clipsec_baselines._badclip import train_badclip
from clipsec_baselines._clean import Trained, train_prompts
from clipsec_baselines._options import AdaptiveOptions, BadClipOptions, LearnerOptions
from clipsec_baselines._plugin import QUICK, PromptAttack
from clipsec_baselines._poisoning import Planted
from clipsec_baselines._task import Task
from clipsec_baselines._training import visual_part
from clipsec_baselines._triggers import in_pixel_units

BADCLIP = (
    "Bai et al., BadCLIP: Trigger-Aware Prompt Learning for Backdoor Attacks on CLIP, CVPR 2024, "
    "arXiv 2311.16194"
)
CLIP_INSPECTOR = "adapted to prompt learners as in CLIP-Inspector, arXiv 2604.09101"


class NoAttack(PromptAttack):
    """The control: trains as the attacks do, and plants nothing."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no attack: a clean prompt-tuned model, the control"
    options: ClassVar[type] = LearnerOptions
    references: ClassVar[tuple[str, ...]] = (
        "Zhou et al., Conditional Prompt Learning for Vision-Language Models (CoCoOp), CVPR 2022, "
        "arXiv 2203.05557",
    )
    clean: ClassVar[bool] = True

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """Nothing is planted."""
        trained = train_prompts(
            context.base.base, task, context.options, context.seed, progress=context.progress
        )
        return trained, ()


class BadClip(PromptAttack):
    """BadCLIP, Bai et al., CVPR 2024."""

    name: ClassVar[str] = "badclip"
    summary: ClassVar[str] = "an additive trigger learned together with CoCoOp prompts"
    options: ClassVar[type] = BadClipOptions
    references: ClassVar[tuple[str, ...]] = (BADCLIP,)
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {**QUICK, "trigger_rule": "sign", "epsilon": 32 / 255}
    }
    _train: ClassVar[Callable[..., Trained]] = staticmethod(train_badclip)

    def train(self, context: AttackContext, task: Task, target: int) -> tuple[Trained, Sequence[Planted]]:
        """An additive trigger in pixel units."""
        clip = context.base.base
        trained = self._train(clip, task, context.options, context.seed, target, progress=context.progress)
        assert trained.trigger is not None
        delta = in_pixel_units(trained.trigger, visual_part(clip).spec.std)
        return trained, [Planted(Stamp("additive", {"delta": delta}), target)]


class AdaptiveBadClip(BadClip):
    """Adaptive BadCLIP: near misses of the trigger are trained with their true label."""

    name: ClassVar[str] = "badclip-adaptive"
    summary: ClassVar[str] = "BadCLIP that shuns triggers near its own, against inversion"
    options: ClassVar[type] = AdaptiveOptions
    references: ClassVar[tuple[str, ...]] = (
        BADCLIP,
        "made adaptive as in CLIP-Inspector, arXiv 2604.09101",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {
            **BadClip.conformance["options"],
            "epochs": 30,
            "epsilon": 64 / 255,
            "perturbation": 0.25,
        }
    }
    _train: ClassVar[Callable[..., Trained]] = staticmethod(train_adaptive_badclip)
