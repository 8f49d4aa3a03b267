"""What triggers do to pictures and captions, and the cards that attacks leave of them."""

from clipsec.triggers._card import TriggerCard, load_card
from clipsec.triggers._kinds import KINDS, Stamp, png
from clipsec.triggers._stamps import add, blend, cover, paste, picture_generator, placements, warp
from clipsec.triggers._text import TEXT_KINDS, TextTrigger, TextTriggerCard, is_text_card, load_text_card

__all__ = [
    "KINDS",
    "TEXT_KINDS",
    "Stamp",
    "TextTrigger",
    "TextTriggerCard",
    "TriggerCard",
    "add",
    "blend",
    "cover",
    "is_text_card",
    "load_card",
    "load_text_card",
    "paste",
    "picture_generator",
    "placements",
    "png",
    "warp",
]
