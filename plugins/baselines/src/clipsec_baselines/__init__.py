"""Prompt learners and attacks on them, to test detectors with.

task = make_task(labelled, held_out, options, seed)
trained = train_prompts(base.base, task, options, seed)        # a clean CoOp or CoCoOp
BadClip().poison(context), Blended().poison(context)           # a poisoned delivery with its trigger card
"""

from clipsec_baselines._adaptive import near_misses, train_adaptive_badclip
from clipsec_baselines._attacks import AdaptiveBadClip, BadClip, NoAttack
from clipsec_baselines._badclip import train_badclip
from clipsec_baselines._clean import Trained, train_prompts
from clipsec_baselines._delivery import write_delivery
from clipsec_baselines._learner import PromptLearner
from clipsec_baselines._measure import measure
from clipsec_baselines._metrics import Rate, attack_success_rate, clean_accuracy
from clipsec_baselines._options import (
    AdaptiveOptions,
    AttackOptions,
    BadClipOptions,
    BadNetsOptions,
    BlendedOptions,
    LearnerOptions,
    PoisonOptions,
    SemanticOptions,
    SibaOptions,
    TwoTargetsOptions,
    WaNetOptions,
    WordOptions,
    published,
)
from clipsec_baselines._patterns import (
    corner_patch,
    cut_out,
    jittered,
    round_piece,
)
from clipsec_baselines._plugin import PromptAttack, choose_target
from clipsec_baselines._poison_attacks import (
    BadNets,
    Blended,
    Semantic,
    Siba,
    TwoTargets,
    WaNet,
    WordAndPatch,
)
from clipsec_baselines._poisoning import Planted, Poison, poisoned_rows
from clipsec_baselines._schedule import rate_at
from clipsec_baselines._siba import find_sparse_trigger
from clipsec_baselines._task import Task, make_task, seen_unseen
from clipsec_baselines._triggers import apply_badclip_trigger, project_to_ball, sparse_mask, sparse_step
from clipsec_baselines._views import TrainingViews, augment
from clipsec_baselines._word import train_word_backdoor, with_word

__all__ = [
    "AdaptiveBadClip",
    "AdaptiveOptions",
    "AttackOptions",
    "BadClip",
    "BadClipOptions",
    "BadNets",
    "BadNetsOptions",
    "Blended",
    "BlendedOptions",
    "LearnerOptions",
    "NoAttack",
    "Planted",
    "Poison",
    "PoisonOptions",
    "PromptAttack",
    "PromptLearner",
    "Rate",
    "Semantic",
    "SemanticOptions",
    "Siba",
    "SibaOptions",
    "Task",
    "Trained",
    "TrainingViews",
    "TwoTargets",
    "TwoTargetsOptions",
    "WaNet",
    "WaNetOptions",
    "WordAndPatch",
    "WordOptions",
    "apply_badclip_trigger",
    "attack_success_rate",
    "augment",
    "choose_target",
    "clean_accuracy",
    "corner_patch",
    "cut_out",
    "find_sparse_trigger",
    "jittered",
    "make_task",
    "measure",
    "near_misses",
    "poisoned_rows",
    "project_to_ball",
    "published",
    "rate_at",
    "round_piece",
    "seen_unseen",
    "sparse_mask",
    "sparse_step",
    "train_adaptive_badclip",
    "train_badclip",
    "train_prompts",
    "train_word_backdoor",
    "with_word",
    "write_delivery",
]
