"""Trigger inversion as it was before CLIP-Inspector, to compare with: Neural Cleanse and Pixel-Backdoor."""

from clipsec_baselines.detectors._detectors import NeuralCleanse, PixelBackdoor
from clipsec_baselines.detectors._options import NeuralCleanseOptions, PixelBackdoorOptions

__all__ = ["NeuralCleanse", "NeuralCleanseOptions", "PixelBackdoor", "PixelBackdoorOptions"]
