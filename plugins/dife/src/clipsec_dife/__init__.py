"""DIFE's interfaces: the uses of a CLIP model through which a backdoor could hurt (arXiv 2606.17815)."""

from clipsec_dife._candidates import BestOfN, Reranking
from clipsec_dife._classify import ImageToText, PromptConditioned, ZeroShot
from clipsec_dife._curation import DataFiltering, Moderation
from clipsec_dife._frozen import ImageSearch, LinearProbe, NearestNeighbours
from clipsec_dife._retrieval import PlantedGallery, TextToImage
from clipsec_dife._texts import NearestPrompt, TextToText
from clipsec_dife._tuned import Delivered, PromptTuned

__all__ = [
    "BestOfN",
    "DataFiltering",
    "Delivered",
    "ImageSearch",
    "ImageToText",
    "LinearProbe",
    "Moderation",
    "NearestNeighbours",
    "NearestPrompt",
    "PlantedGallery",
    "PromptConditioned",
    "PromptTuned",
    "Reranking",
    "TextToImage",
    "TextToText",
    "ZeroShot",
]
