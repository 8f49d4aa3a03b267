"""What triggers do to pictures and captions, and the cards that attacks leave of them."""

from clipsec.triggers._card import TriggerCard, load_card
from clipsec.triggers._kinds import KINDS, Stamp, png
from clipsec.triggers._measured import captured, measured_rate, retrieved
from clipsec.triggers._patterns import checkerboard, identity_grid, noise_pattern, warp_grid, warp_offsets
from clipsec.triggers._stamp_file import read_stamp, stamp_bytes
from clipsec.triggers._stamps import add, blend, cover, paste, picture_generator, placements, warp
from clipsec.triggers._text import (
    TEXT_KINDS,
    TextTrigger,
    TextTriggerCard,
    is_text_card,
    load_text_card,
    whole_words,
)

__all__ = [
    "KINDS",
    "TEXT_KINDS",
    "Stamp",
    "TextTrigger",
    "TextTriggerCard",
    "TriggerCard",
    "add",
    "blend",
    "captured",
    "checkerboard",
    "cover",
    "identity_grid",
    "is_text_card",
    "load_card",
    "load_text_card",
    "measured_rate",
    "noise_pattern",
    "paste",
    "picture_generator",
    "placements",
    "png",
    "read_stamp",
    "retrieved",
    "stamp_bytes",
    "warp",
    "warp_grid",
    "warp_offsets",
    "whole_words",
]
