"""What triggers do to pictures, and the cards that attacks leave of them."""

from clipsec.triggers._card import TriggerCard, load_card
from clipsec.triggers._kinds import KINDS, Stamp, png
from clipsec.triggers._stamps import add, blend, cover, paste, picture_generator, placements, warp

__all__ = [
    "KINDS",
    "Stamp",
    "TriggerCard",
    "add",
    "blend",
    "cover",
    "load_card",
    "paste",
    "picture_generator",
    "placements",
    "png",
    "warp",
]
