"""Data an audit works on: image pools, text pools, labelled sets; each identified by its content."""

from clipsec.data._captions import coco_captions
from clipsec.data._labelled import LabelledSet, describe_split
from clipsec.data._pairs import read_pairs
from clipsec.data._pictures import find_pictures, open_picture, read_picture, read_pictures, to_unit
from clipsec.data._pool import ImagePool
from clipsec.data._texts import TextPool, read_lines

__all__ = [
    "ImagePool",
    "LabelledSet",
    "TextPool",
    "coco_captions",
    "describe_split",
    "find_pictures",
    "open_picture",
    "read_lines",
    "read_pairs",
    "read_picture",
    "read_pictures",
    "to_unit",
]
