"""CLIP-Inspector: trigger inversion on prompt-tuned CLIP models (arXiv 2604.09101)."""

from clipsec_clip_inspector._detector import ClipInspector
from clipsec_clip_inspector._options import Options

__all__ = ["ClipInspector", "Options"]
