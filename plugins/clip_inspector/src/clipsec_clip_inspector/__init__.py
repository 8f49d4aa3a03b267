"""CLIP-Inspector: trigger inversion on prompt-tuned CLIP models (arXiv 2604.09101)."""

from clipsec_clip_inspector._detector import ClipInspector
from clipsec_clip_inspector._options import Options
from clipsec_clip_inspector._plus import ClipInspectorPlus
from clipsec_clip_inspector._plus_options import PlusOptions
from clipsec_clip_inspector._repair import PromptFinetune
from clipsec_clip_inspector._repair_options import RepairOptions

__all__ = ["ClipInspector", "ClipInspectorPlus", "Options", "PlusOptions", "PromptFinetune", "RepairOptions"]
