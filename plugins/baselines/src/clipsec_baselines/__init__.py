"""Prompt learners and published attacks on them, to test detectors with.

task = make_task(labelled, held_out, options, seed)
trained = train_prompts(base.base, task, options, seed)        # a clean CoOp or CoCoOp
BadClip().poison(context), Blended().poison(context)           # a poisoned delivery with its trigger card
"""

from clipsec_baselines._attacks import BadClip, Blended, NoAttack, choose_target
from clipsec_baselines._badclip import train_badclip
from clipsec_baselines._blended import poisoned_rows, train_blended
from clipsec_baselines._card import TriggerCard, load_card
from clipsec_baselines._clean import Poison, Trained, train_prompts
from clipsec_baselines._command import make_model, read_options
from clipsec_baselines._delivery import write_delivery
from clipsec_baselines._learner import PromptLearner
from clipsec_baselines._measure import measure
from clipsec_baselines._metrics import Rate, attack_success_rate, clean_accuracy
from clipsec_baselines._options import (
    AttackOptions,
    BadClipOptions,
    BlendedOptions,
    LearnerOptions,
    published,
)
from clipsec_baselines._schedule import rate_at
from clipsec_baselines._task import Task, make_task, seen_unseen
from clipsec_baselines._triggers import apply_badclip_trigger, blend, noise_pattern, project_to_ball
from clipsec_baselines._views import TrainingViews, augment

__all__ = [
    "AttackOptions",
    "BadClip",
    "BadClipOptions",
    "Blended",
    "BlendedOptions",
    "LearnerOptions",
    "NoAttack",
    "Poison",
    "PromptLearner",
    "Rate",
    "Task",
    "Trained",
    "TrainingViews",
    "TriggerCard",
    "apply_badclip_trigger",
    "attack_success_rate",
    "augment",
    "blend",
    "choose_target",
    "clean_accuracy",
    "load_card",
    "make_model",
    "make_task",
    "measure",
    "noise_pattern",
    "poisoned_rows",
    "project_to_ball",
    "published",
    "rate_at",
    "read_options",
    "seen_unseen",
    "train_badclip",
    "train_blended",
    "train_prompts",
    "write_delivery",
]
